"""Text as its tokens come: pieces that together are the text."""

from __future__ import annotations

from telepatch_worker.text_pieces import TextPieces


def test_pieces_are_told_once_their_characters_are_whole():
    spelled = [bytes([one]) for one in "dé 🙂!".encode()]

    def decode(ids):
        return b"".join(spelled[one] for one in ids).decode(errors="replace")

    pieces = TextPieces(decode)
    told = [pieces(at) for at in range(len(spelled))]
    assert "".join(told) == "dé 🙂!"
    assert told == ["d", "", "é", " ", "", "", "", "🙂", "!"]


def test_a_space_that_depends_on_what_precedes_is_kept():
    words = ["Hello", "world", "again"]
    pieces = TextPieces(lambda ids: " ".join(words[one] for one in ids))
    assert [pieces(at) for at in range(3)] == ["Hello", " world", " again"]


def test_a_model_without_a_tokenizer_has_no_text():
    assert TextPieces(None)(5) == ""
