"""Reading documents, and what is said when a file is wrong."""

import json
import os
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from snellen.errors import InputError
from snellen.texts import read
from snellen.texts.read import Document, bundled, documents_from, read_documents


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def complaint(*parts: str) -> object:
    """The error holds all parts, in this order, on one line."""
    pattern = ".*".join(re.escape(part) for part in parts)
    return pytest.raises(InputError, match=rf"^(?s:(?!.*\n)).*{pattern}")


def test_plain_text_is_one_document(folder):
    path = write(folder, "a.txt", "Zwölf Boxkämpfer\n")
    assert read_documents([path]) == [Document("a.txt", "Zwölf Boxkämpfer\n")]
    assert read_documents(["a.txt"]) == read_documents([path])


def test_byte_order_mark_and_crlf_are_noted(folder):
    write(folder, "a.txt", b"\xef\xbb\xbfone\r\ntwo\rthree\n")
    (document,) = read_documents(["a.txt"])
    assert document.text == "one\ntwo\rthree\n"
    assert document.notes == ("byte-order mark removed", "CRLF line ends read as LF")


def test_json_lines(folder):
    rows = [{"text": "first"}, {"text": "  "}, {"text": None}, {"text": "sec\r\nond \u2028 still"}]
    write(folder, "rows.jsonl", "\n\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n")
    documents = read_documents(["rows.jsonl"])
    assert [d.name for d in documents] == ["rows.jsonl:1", "rows.jsonl:7"]
    assert [d.text for d in documents] == ["first", "sec\nond \u2028 still"]
    write(folder, "body.ndjson", '{"body": "x", "text": "y"}')
    assert read_documents(["body.ndjson"], field="body")[0].text == "x"


def test_parquet(folder):
    for kind in (pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())):
        column = pa.array(["one", None, "three"], pa.string()).cast(kind)
        pq.write_table(pa.table({"id": [1, 2, 3], "text": column}), "t.parquet")
        assert read_documents(["t.parquet"]) == [
            Document("t.parquet:1", "one"),
            Document("t.parquet:3", "three"),
        ]


def test_folders_patterns_and_repeats(folder):
    for name in ("d/b.txt", "d/a.md", "d/.hidden.txt", "d/sub/c.txt", "d/picture.png", "d/.git/x.txt"):
        write(folder, name, name)
    assert [d.text for d in read_documents(["d"])] == ["d/a.md", "d/b.txt", "d/sub/c.txt"]
    assert [d.text for d in read_documents(["d/*.txt", "d/b.txt"])] == ["d/b.txt"]
    assert [d.text for d in read_documents(["d/**/*.txt"])] == ["d/b.txt", "d/sub/c.txt"]
    write(folder, "odd[1].txt", "a name that looks like a pattern")
    assert len(read_documents(["odd[1].txt"])) == 1


def test_names_are_short_and_distinct(folder):
    for name in ("x/one/a.txt", "x/two/a.txt"):
        write(folder, name, name)
    assert [d.name for d in read_documents(["x"])] == ["one/a.txt", "two/a.txt"]
    assert [d.name for d in read_documents(["x/two"])] == ["a.txt"]


@pytest.mark.parametrize(
    ("name", "content", "parts"),
    [
        ("a.txt", b"", ("'a.txt'", "empty (0 bytes)", "leave it out")),
        ("a.txt", b" \n\t ", ("'a.txt'", "white space", "leave it out")),
        ("a.txt", b"PK\x03\x04\x00\x01", ("'a.txt'", "binary", "NUL byte at byte 4", "plain text")),
        ("a.txt", b"caf\xe9 au lait", ("'a.txt'", "not UTF-8", "byte 3", "0xe9", "iconv -f LATIN1 -t UTF-8 a.txt")),
        ("a.txt", "text".encode("utf-16"), ("'a.txt'", "UTF-16", "ff fe", "iconv -f UTF-16")),
        ("a.jsonl", b'{"text": "x"}\n{"text": \n', ("'a.jsonl', line 2", "not JSON", "column", "one JSON object")),
        ("a.jsonl", b'{"text": "x"}\n\n{"body": "x", "id": 1}', ("line 3: no field 'text'", "'body', 'id'", "--field")),
        ("a.jsonl", b'{"text": 3}', ("'a.jsonl', line 1", "'text' is a int", "not a string", "--field")),
        ("a.jsonl", b'"text"', ("'a.jsonl', line 1", "a JSON str", '{"text": ...}')),
        ("a.jsonl", b'{"text": ""}\n', ("'a.jsonl'", "no line with any text in field 'text'", "leave the file out")),
        ("a.jsonl", b'{"text": "\xff"}', ("'a.jsonl'", "not UTF-8", "byte 10", "0xff", "iconv")),
        ("a.jsonl", b'{"text": "x"}\n{"text": "a \\ud83d"}', ("line 2, field 'text'", "U+D83D", "character 2")),
        ("a.jsonl", b'{"text": "nul: \\u0000"}', ("'a.jsonl', line 1, field 'text'", "a NUL character at character 5")),
        ("a.jsonl", b"[" * 100_000, ("'a.jsonl', line 1", "JSON that cannot be read", "one flat object")),
        ("a.jsonl", b'{"text": ' + b"9" * 5000 + b"}", ("'a.jsonl', line 1", "JSON that cannot be read", "digits")),
        ("a.txt", "half \ud800".encode(errors="surrogatepass"), ("'a.txt'", "not UTF-8", "byte 5", "0xed")),
        ("a.json", b'{"text": "x"}', ("'a.json'", "not a list of documents", "jq", "a.jsonl")),
        ("a.parquet", b"nonsense", ("'a.parquet'", "not a readable Parquet file", "write it again")),
    ],
)  # fmt: skip
def test_wrong_files(folder, name, content, parts):
    write(folder, name, content)
    with complaint(*parts):
        read_documents([name])


def test_wrong_parquet_columns(folder):
    pq.write_table(pa.table({"id": [1], "body": ["x"]}), "t.parquet")
    with complaint("'t.parquet'", "no column 'text'", "'id', 'body'", "--field"):
        read_documents(["t.parquet"])
    with complaint("'t.parquet'", "column 'id' holds int64", "'id', 'body'"):
        read_documents(["t.parquet"], field="id")
    pq.write_table(pa.table({"text": pa.array([None, " "], pa.string())}), "t.parquet")
    with complaint("'t.parquet'", "no row with any text", "leave the file out"):
        read_documents(["t.parquet"])


def test_pairs_of_surrogates_in_json_are_characters(folder):
    write(folder, "a.jsonl", b'{"text": "\\ud83d\\ude00 \\ufeff"}\n{"text": "\\ufeffone\\r\\ntwo"}')
    first, second = read_documents(["a.jsonl"])
    assert (first.text, first.notes) == ("\U0001f600 \ufeff", ())
    assert (second.text, second.notes) == ("one\ntwo", ("byte-order mark removed", "CRLF line ends read as LF"))


def test_parquet_that_is_not_what_it_promises(folder):
    raw = pa.array([b"fine", b"caf\xe9"], pa.binary())
    text = pa.Array.from_buffers(pa.string(), 2, raw.buffers())  # nobody checks that it is UTF-8
    pq.write_table(pa.table({"text": text}), "t.parquet")
    with complaint("'t.parquet', row 2, column 'text'", "not UTF-8", "byte 3", "0xe9"):
        read_documents(["t.parquet"])
    pq.write_table(pa.table({"text": ["fine", "a\0b"]}), "t.parquet")
    with complaint("'t.parquet', row 2, column 'text'", "a NUL character at character 1"):
        read_documents(["t.parquet"])
    pq.write_table(pa.Table.from_arrays([pa.array(["x"]), pa.array(["y"])], names=["text", "text"]), "t.parquet")
    with complaint("text 't.parquet'"):  # what is wrong with it pyarrow says, in the words of its release
        read_documents(["t.parquet"])


@pytest.mark.parametrize("text", ["a \udc80 b", "a \0 b"])
def test_strings_that_no_file_could_hold(text):
    for given in (text, ["fine", text], Document("mine", text)):
        with complaint("text", "at character 2", "remove or replace"):
            documents_from(given)


def test_missing_files(folder):
    with complaint("'nowhere.txt'", "no such file", str(folder)):
        read_documents(["nowhere.txt"])
    with complaint("'*.txt'", "no file matches", str(folder)):
        read_documents(["*.txt"])
    (folder / "bare").mkdir()
    with complaint("'bare'", "no text files in the folder", "*.txt", "name the files"):
        read_documents(["bare"])
    with complaint("no text files given", "name at least one"):
        read_documents([])


def test_unreadable_file(folder, monkeypatch):
    path = write(folder, "a.txt", "secret")

    def refuse(self):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "read_bytes", refuse)  # root may read anything, so the mode alone tests nothing
    with complaint("a.txt", "cannot be read", "Permission denied", "permissions"):
        read_documents([path])


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read anything; `test_unreadable_file` runs as root too")
def test_unreadable_mode(folder):
    path = write(folder, "a.txt", "secret")
    path.chmod(0)
    with complaint("a.txt", "cannot be read", "permissions"):
        read_documents([path])


def test_python_texts_go_by_type(folder):
    path = write(folder, "a.txt", "from the file")
    given = Document("mine", "words")
    assert documents_from("plain words") == [Document("text 1", "plain words")]
    assert documents_from(path) == [Document("a.txt", "from the file")]
    assert documents_from(given) == [given]
    assert documents_from(["x", path, given]) == [Document("text 1", "x"), Document("a.txt", "from the file"), given]
    assert documents_from(text for text in ("x", "y"))[1].name == "text 2"
    assert documents_from("not there.txt")[0].text == "not there.txt"


def test_python_texts_wrong(folder):
    write(folder, "a.txt", "from the file")
    with complaint("'a.txt' is the name of a file", "pathlib.Path('a.txt')"):
        documents_from("a.txt")
    with complaint("text 2 is a int", "pathlib.Path"):
        documents_from(["x", 3])
    with complaint("no texts given", "at least one"):
        documents_from([])
    with complaint("'text 1'", "white space"):
        documents_from(" \n")


def test_bundled(folder, monkeypatch):
    monkeypatch.setattr(read.resources, "files", lambda package: folder)
    with complaint("bundled texts are missing", "reinstall"):
        bundled()
    write(folder, "models/pocket/held-out/verse.txt", "held out\n")
    write(folder, "models/pocket/held-out/essays.txt", "also\n")
    assert bundled() == [Document("essays", "also\n"), Document("verse", "held out\n")]
