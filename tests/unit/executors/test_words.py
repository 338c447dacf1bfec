"""Words of any script: what they are, and that nothing else is one."""

from __future__ import annotations

import unicodedata

import pytest

from executors.branching.words import CHARS_MAX, STOP_WORDS, WORD_CHARS_MAX, words


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Where is my new card? £20.50", "where is my new card"),
        ("4th of May, 2nd try, x2 and mp3", "of may try x2 and mp3"),
        ("don't say what's new_name I'm", "don say what new name"),
        ("Straße ÀÉ ﬁne", "strasse àé fine"),
        ("أَيْنَ بِطَاقَتِي الجديـــدة؟", "اين بطاقتي الجديدة"),
        ("آخر إلى أين ١٢٣ ٤كلمة", "اخر الى اين"),
        ("где моя карта", "где моя карта"),
        ("हिन्दी भाषा", "हिन्दी भाषा"),
        ("שָׁלוֹם", "שָׁלוֹם"),
        ("東京の天気", "東京 京の の天 天気"),
        ("iPhone新しいmodel", "iphone 新し しい model"),
        ("สวัสดี", "สว วั ัส สด ดี"),
        ("", ""),
        ("1 2 3 -- a b", ""),
    ],
)
def test_what_is_a_word(text: str, expected: str) -> None:
    assert words(text) == [unicodedata.normalize("NFKC", word) for word in expected.split()]


def test_an_ascii_text_has_the_words_that_it_has_among_others() -> None:
    plain = "Foo bar_baz 12ab it's x2y a.b.cd A1 b2b"
    assert words(f"{plain} é") == words(plain)


def test_the_work_is_bounded() -> None:
    assert [len(word) for word in words("x" * 3 * CHARS_MAX)] == [WORD_CHARS_MAX]
    assert len(words("ab " * CHARS_MAX)) <= CHARS_MAX / 3 + 1


def test_stop_words_are_words() -> None:
    assert {word for word in STOP_WORDS if len(word) > 1 and words(word) != [word]} == set()
