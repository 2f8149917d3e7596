"""The language of a page: as declared, else recognised by script and small words, else unknown."""

import re
from collections import Counter
from typing import Final

__all__ = ["detect", "normalise"]

_TAG: Final = re.compile(
    r"([a-zA-Z]{2,3})(?:[-_]([a-zA-Z]{4}))?(?:[-_]([a-zA-Z]{2}|\d{3}))?(?:[-_.@].*)?"
)
_WORD: Final = re.compile(r"[^\W\d_]+")
_SAMPLE_CHARS: Final = 4000
_MIN_WORDS: Final = 20
_SCRIPTS: Final = (
    (re.compile("[\u3040-\u30ff]"), "ja", 0.05),  # Kana before Han: Japanese has both
    (re.compile("[\uac00-\ud7af]"), "ko", 0.2),
    (re.compile("[\u4e00-\u9fff]"), "zh", 0.2),
    (re.compile("[\u0e00-\u0e7f]"), "th", 0.3),
    (re.compile("[\u0590-\u05ff]"), "he", 0.3),
    (re.compile("[\u0370-\u03ff]"), "el", 0.3),
)
_ANY_SCRIPT: Final = re.compile(
    f"[{''.join(pattern.pattern.strip('[]') for pattern, _, _ in _SCRIPTS)}]"
)
_STOP_WORDS: Final = {
    "en": "the and of to in is that for it with as was on are be this by from at have not you",
    "de": "der die und das den von zu ist mit sich des auf für nicht ein eine dem auch als wird",
    "fr": "le la les des et est une dans que pour qui sur pas au par avec plus ce sont cette du",
    "es": "el los las que una por con para del se es como más su al lo pero está entre también",
    "pt": "os as que um uma para com não do da em por mais no na dos como ao são também pelo você",
    "it": "il che di gli una per con non del della sono alla anche nel più questo dei come lo",
    "nl": "het een van en dat is op te met voor niet zijn aan er ook als bij naar deze wordt door",
    "sv": "och att det som en för av är på den med inte till har ett om var jag kan från men",
    "da": "og at det en den til er som på de med af for ikke der var et jeg har kan ved",
    "pl": "się nie na że do jest jak od za przez po co to dla są tym ale oraz tego może",
    "ru": "и в не на что с как по это из для но от так его все было или она они при",
    "uk": "і в не на що з як до це та для від за але його також або вона було які про",
    "tr": "ve bir bu da için ile de olarak çok daha olan gibi ne en var kadar sonra ancak",
    "cs": "a se na je že v to s z do o jako pro by ale jsou které podle nebo také jsem",
    "fi": "ja on ei että se oli hän mutta ovat kun myös niin joka sen tai ole kuin vain",
    "ar": "في من على أن إلى هذا التي عن مع لا ما كان هذه الذي بعد قد بين أو كل ذلك",
    "fa": "در به از که این را با است برای آن یک خود تا بر هم می شد شود بود های",
    "vi": "của và các là có được cho trong không một người với này đã khi từ những như để",
    "id": "yang dan di untuk dengan ini dari pada tidak dalam akan adalah itu ke oleh juga atau",
}
_SETS: Final = {language: frozenset(words.split()) for language, words in _STOP_WORDS.items()}


def normalise(tag: str | None) -> str | None:
    """A declared tag in BCP 47 form (``en_us`` to ``en-US``), or None if it is none.

    Source: RFC 5646, section 2.1.1 (case of subtags).
    """
    match = _TAG.fullmatch(tag.strip()[:40]) if tag else None
    if match is None or match[1].lower() in ("und", "mul", "zxx"):
        return None
    parts = [match[1].lower()]
    if match[2]:
        parts.append(match[2].title())
    if match[3]:
        parts.append(match[3].upper())
    return "-".join(parts)


def detect(text: str) -> str | None:
    """The language of a text of at least a few sentences, when one stands out; else None."""
    sample = text[:_SAMPLE_CHARS]
    found = _WORD.findall(sample)
    letters = sum(map(len, found))
    if letters < 40:
        return None
    # Most texts beyond ASCII are so by their quotation marks: one look for all scripts, not six.
    scripts = _SCRIPTS if not sample.isascii() and _ANY_SCRIPT.search(sample) is not None else ()
    for pattern, language, share in scripts:
        if len(pattern.findall(sample)) >= share * letters:
            return language
    total = len(found)
    if total < _MIN_WORDS:
        return None
    words = Counter(map(str.lower, found))
    scores = sorted(
        (
            (sum([words[word] for word in stop & words.keys()]), language)
            for language, stop in _SETS.items()
        ),
        reverse=True,
    )
    (best, language), (second, _) = scores[:2]
    return language if best >= 0.08 * total and best >= 1.25 * second else None
