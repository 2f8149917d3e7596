"""Which pictures and rules come with the text that was chosen."""

from eventmesh_trio.pipeline.extract import extract_document

URL = "https://example.org/a/b"
SENTENCE = "The harbour museum opened its doors yesterday, and visitors praised the collection. "
PROSE = f"<p>{SENTENCE * 3}</p>"


def markdown(inner: str) -> str:
    return extract_document(f"<!DOCTYPE html><body>{inner}</body>".encode(), URL).markdown


def test_a_picture_between_paragraphs_comes_with_them() -> None:
    written = markdown(f"<article>{PROSE}<p><img src=/a.png alt=A></p>{PROSE}</article>")
    assert written.count("\n\n![A](https://example.org/a.png)\n\n") == 1


def test_a_picture_above_the_first_paragraph_and_below_the_last_come_too() -> None:
    written = markdown(
        f"<article><img src=/a.png alt=A>{PROSE}{PROSE}<figure><img src=/z.png alt=Z></figure>"
        "</article>"
    )
    assert written.startswith("![A](https://example.org/a.png)")
    assert written.endswith("![Z](https://example.org/z.png)")


def test_pictures_of_navigation_and_of_what_was_left_out_stay_there() -> None:
    written = markdown(
        '<div class="nav"><img src="/logo.png" alt="Logo"></div>'
        f'<article>{PROSE}{PROSE}<div class="related"><a href="/x"><img src="/t.png" alt="T">'
        "Other story</a></div></article>"
        '<footer><img src="/f.png" alt="F"></footer>'
    )
    assert "![" not in written


def test_a_wall_of_nameless_pictures_is_left_out_and_a_gallery_is_not() -> None:
    wall = "".join(f"<div><img src=/{n}.png alt=''></div>" for n in range(6))
    gallery = "".join(f"<div><img src=/{n}.png alt='View {n}'></div>" for n in range(6))
    assert "![" not in markdown(f"<article>{PROSE}{wall}{PROSE}</article>")
    assert markdown(f"<article>{PROSE}{gallery}{PROSE}</article>").count("![") == 6


def test_a_rule_stands_between_what_was_chosen_only() -> None:
    written = markdown(f"<article><hr>{PROSE}<hr>{PROSE}<hr></article>")
    assert written.count("\n\n---\n\n") == 1
    assert not written.startswith("---")
    assert not written.endswith("---")


def test_pictures_of_the_text_are_among_the_images_of_the_document() -> None:
    page = f"<article>{PROSE}<p><img src=/a.png alt=A></p>{PROSE}</article>".encode()
    document = extract_document(page, URL)
    assert [(image.url, image.alt) for image in document.images] == [
        ("https://example.org/a.png", "A")
    ]
