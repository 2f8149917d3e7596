"""PDF files: their text, what they say of themselves, and what is refused."""

import sys
from subprocess import run

import pytest

from eventmesh_trio.errors import UnsupportedContent
from eventmesh_trio.pipeline.extract import extract_document, extract_page
from eventmesh_trio.pipeline.extract.source import pdf
from eventmesh_trio.pipeline.extract.source.pdf import read_pdf
from eventmesh_trio.pipeline.workers.pool import open_extractor
from eventmesh_trio.pipeline.workers.process import WorkerLimits
from eventmesh_trio.testing import make_page
from tests.helpers.pdf_files import make_pdf

FIRST = [
    (72, 760, 20, "The Harbour Museum"),
    (72, 720, 11, "The museum of printing opened yesterday in the old har-"),
    (72, 706, 11, "bour, and the first visitors praised (and touched) the"),
    (72, 692, 11, "presses. Some came twice."),
    (72, 664, 11, "Another paragraph stands under a wider gap, and it goes"),
    (280, 30, 9, "Page 1 of 3"),
]
SECOND = [(72, 720, 11, "on over the edge of its page."), (280, 30, 9, "Page 2 of 3")]
THIRD = [(72, 720, 11, "The last page has a line of its own."), (280, 30, 9, "Page 3 of 3")]
INFO = {
    "Title": "Harbour report",
    "Author": "Ada Byron",
    "Subject": "On the museum",
    "Keywords": "museum; harbour",
    "CreationDate": "D:20260301080000+01'00'",
    "ModDate": "D:20260302",
}
FILE = make_pdf([FIRST, SECOND, THIRD], INFO)
URL = "https://example.org/report.pdf"


def test_lines_become_paragraphs_and_parted_words_are_whole() -> None:
    document = extract_document(FILE, URL)
    assert [line for line in document.text.split("\n") if line] == [
        "The Harbour Museum",
        "The museum of printing opened yesterday in the old harbour, and the first visitors praised"
        " (and touched) the presses. Some came twice.",
        "Another paragraph stands under a wider gap, and it goes on over the edge of its page.",
        "The last page has a line of its own.",
    ]
    assert document.markdown.startswith("## The Harbour Museum\n\nThe museum")


def test_what_the_file_says_of_itself_is_the_metadata() -> None:
    extraction = extract_page(FILE, URL, content_type="text/html")
    document = extraction.document
    assert (document.title, document.author) == ("Harbour report", "Ada Byron")
    assert (document.date, document.modified) == ("2026-03-01T08:00:00+01:00", "2026-03-02")
    assert document.description == "On the museum"
    assert document.tags == ("museum", "harbour")
    assert (extraction.method, extraction.gate_decision) == ("pdf", "raw")


@pytest.mark.parametrize("told", ["", "untitled", "Microsoft Word - a.docx", "report_final.indd"])
def test_a_title_that_a_program_wrote_gives_way_to_the_first_heading(told: str) -> None:
    assert extract_document(make_pdf([FIRST], {"Title": told}), URL).title == "The Harbour Museum"


def test_markup_in_the_text_of_a_file_is_text() -> None:
    document = extract_document(make_pdf([[(72, 720, 11, "a <b>bold</b> & <script>x")]]), URL)
    assert document.text == "a <b>bold</b> & <script>x"


@pytest.mark.parametrize("member", ["text", "pages", "seconds"])
def test_a_long_file_is_read_to_a_limit_and_flagged(
    member: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pdf, "MAX_PAGES", 2 if member == "pages" else 1000)
    monkeypatch.setattr(pdf, "MAX_CHARS", 60 if member == "text" else 10_000)
    monkeypatch.setattr(pdf, "MAX_SECONDS", 0.0 if member == "seconds" else 10.0)
    document = extract_document(FILE, URL)
    assert document.truncated is True
    assert "The Harbour Museum" in document.text
    assert "The last page" not in document.text


ENCRYPTED = FILE.replace(
    b"trailer<<",
    b"trailer<</ID[<%s><%s>]/Encrypt<</Filter/Standard/V 1/R 2/P -4/O<%s>/U<%s>>>"
    % (b"00" * 16, b"00" * 16, b"11" * 32, b"22" * 32),
)


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (ENCRYPTED, "encrypted"),
        (FILE[:300], "broken"),
        (b"%PDF-1.7 " + bytes(range(256)) * 20, "broken"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused_and_says_why(body: bytes, told: str) -> None:
    with pytest.raises(UnsupportedContent, match=told):
        read_pdf(body)
    assert extract_document(body, URL).text == ""


def test_a_file_has_no_source_to_send() -> None:
    with pytest.raises(UnsupportedContent, match="source"):
        extract_page(FILE, URL, mode="raw")
    assert extract_page(FILE, URL, mode="metadata").document.title == "Harbour report"


def test_the_library_is_loaded_by_the_first_file_only() -> None:
    program = (
        "import sys; from eventmesh_trio.pipeline.extract import extract_document;"
        "extract_document(b'<p>text'); assert 'pypdfium2' not in sys.modules"
    )
    run([sys.executable, "-c", program], check=True)


async def test_a_worker_reads_files_within_its_memory() -> None:
    body = make_pdf([FIRST] * 300)
    async with open_extractor(WorkerLimits(workers=1)) as pool:
        page = make_page(URL, body, content_type="application/pdf")
        extraction = await pool.extract(page, "article", None)
        assert extraction.method == "pdf"
        assert extraction.document.text.count("Some came twice.") == 300
        with pytest.raises(UnsupportedContent, match="encrypted"):
            await pool.extract(make_page(URL, ENCRYPTED), "article", None)
        assert pool.statistics().workers_failed == 0
