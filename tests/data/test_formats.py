"""Readers of every format, on small files as they are found in the wild."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from athanor.artifacts.run import StageError
from athanor.data.formats import read_records
from athanor.data.formats.record import Record, SourceFile
from athanor.recipe.schema.choices import DocumentFormat, SourceKind
from athanor.recipe.schema.recipe import Source

MakeSource = Callable[..., Source]


def read(path: Path, source: Source) -> list[Record]:
    return list(read_records([SourceFile(f"pkg/{path.name}", path)], source))


def test_json_mapping_keys_become_a_field_and_the_id(tmp_path: Path, make_source: MakeSource) -> None:
    path = tmp_path / "m.json.gz"
    path.write_bytes(gzip.compress(json.dumps({"CCO": {"name": "ethanol"}, "O": "water"}).encode()))
    records = read(path, make_source(format=DocumentFormat.JSON))
    assert records == [
        Record("CCO", {"name": "ethanol", "key": "CCO"}),
        Record("O", {"text": "water", "key": "O"}),
    ]


def test_json_list_is_one_record_an_item(tmp_path: Path, make_source: MakeSource) -> None:
    path = tmp_path / "l.json"
    path.write_text('[{"a": 1}, "b"]')
    assert read(path, make_source(format=DocumentFormat.JSON)) == [
        Record("pkg/l.json:0", {"a": 1}),
        Record("pkg/l.json:1", {"text": "b"}),
    ]


@pytest.mark.parametrize(("content", "complaint"), [("3", "list or mapping"), ("{", "not JSON")])
def test_json_of_another_shape_is_an_error_naming_the_file(
    content: str, complaint: str, tmp_path: Path, make_source: MakeSource
) -> None:
    path = tmp_path / "x.json"
    path.write_text(content)
    with pytest.raises(StageError, match=rf"pkg/x\.json.*{complaint}"):
        read(path, make_source(format=DocumentFormat.JSON))


def test_jsonl_blank_lines_are_passed_and_bad_ones_named(tmp_path: Path, make_source: MakeSource) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('{"text": "a"}\n\n{"text": "b\\u2028"}\n')
    assert [record.fields["text"] for record in read(path, make_source())] == ["a", "b\u2028"]
    path.write_text('{"text": "a"}\nnonsense\n')
    with pytest.raises(StageError, match=r"x\.jsonl:2"):
        read(path, make_source())


def test_tsv_declared_columns_take_the_first_cells(tmp_path: Path, make_source: MakeSource) -> None:
    path = tmp_path / "x.tsv"
    path.write_text('7\tC7H9N5\t9-ethyl "adenine"\tmore\n8\n')
    source = make_source(format=DocumentFormat.TSV, columns=["id", "formula", "name"])
    assert [dict(record.fields) for record in read(path, source)] == [
        {"id": "7", "formula": "C7H9N5", "name": '9-ethyl "adenine"'},
        {"id": "8"},
    ]


def test_tsv_without_declared_columns_reads_its_header(tmp_path: Path, make_source: MakeSource) -> None:
    path = tmp_path / "x.tsv"
    path.write_text("a\tb\r\n1\t2\r\n")
    records = read(path, make_source(format=DocumentFormat.TSV))
    assert records == [Record("pkg/x.tsv:2", {"a": "1", "b": "2"})]


@pytest.mark.parametrize("format_", [DocumentFormat.CODE, DocumentFormat.TEXT])
def test_whole_file_is_one_record(format_: DocumentFormat, tmp_path: Path, make_source: MakeSource) -> None:
    path = tmp_path / "a.py"
    path.write_bytes("x = 'é'\r\n".encode())
    assert read(path, make_source(format=format_)) == [
        Record("pkg/a.py", {"text": "x = 'é'\n", "path": "pkg/a.py", "name": "a.py"})
    ]


OBO = """format-version: 1.2
ontology: chebi

[Term]
id: CHEBI:16236
name: ethanol
def: "A primary alcohol, \\"spirit\\"." [PMID:1]
synonym: "EtOH" RELATED [ChEBI:]
synonym: "EtOH" RELATED [IUPAC:]
synonym: "CCO" RELATED SMILES [ChEBI:]
synonym: "ethanol" EXACT IUPAC_NAME [IUPAC:]
is_a: CHEBI:23982 ! ethanols

[Term]
id: CHEBI:1
name: gone
is_obsolete: true

[Typedef]
id: has_part
name: has part
"""


def test_obo_terms_become_records_obsolete_and_typedefs_do_not(tmp_path: Path, make_source: MakeSource) -> None:
    path = tmp_path / "c.obo"
    path.write_text(OBO)
    (record,) = read(path, make_source(format=DocumentFormat.OBO))
    assert record.id == "CHEBI:16236"
    assert record.fields == {
        "id": "CHEBI:16236",
        "name": "ethanol",
        "definition": 'A primary alcohol, "spirit".',
        "synonyms": ["EtOH"],
        "smiles": "CCO",
        "iupac_name": "ethanol",
        "is_a": ["CHEBI:23982"],
    }


def test_dictd_definition_is_read_once_whatever_leads_to_it(tmp_path: Path, make_source: MakeSource) -> None:
    first, second = "about the dictionary", "acronycal: rising at sunset, élan"
    (tmp_path / "d.dict.dz").write_bytes(gzip.compress((first + second).encode()))
    digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    place = f"{digits[len(first)]}\t{digits[len(second.encode())]}"
    (tmp_path / "d.index").write_text(f"00-database-info\tA\t{digits[len(first)]}\nacronical\t{place}\nacronycal\t{place}\n")
    source = make_source(format=DocumentFormat.DICTD)
    assert read(tmp_path / "d.dict.dz", source) == [Record("acronical@20", {"headword": "acronical", "text": second})]
    assert read(tmp_path / "d.index", source) == []
    (tmp_path / "d.index").unlink()
    with pytest.raises(StageError, match=r"d\.index must lie beside it.*NAME\.\*"):
        read(tmp_path / "d.dict.dz", source)


def test_fasta_header_fields_and_wrapped_sequence(tmp_path: Path, make_source: MakeSource) -> None:
    path = tmp_path / "p.fasta.gz"
    path.write_bytes(gzip.compress(b">sp|P1|A_B Choline ABC OS=Bacillus sp. 4_1 GN=opu PE=4 SV=1 Split=0 \nMLT\nLEN\n>x\nAC\n"))
    records = read(path, make_source(format=DocumentFormat.FASTA))
    assert records[0].id == "sp|P1|A_B"
    assert records[0].fields["description"] == "Choline ABC"
    assert records[0].fields["organism"] == "Bacillus sp. 4_1"
    assert (records[0].fields["gene"], records[0].fields["sequence"]) == ("opu", "MLTLEN")
    assert records[1] == Record("x", {"id": "x", "description": "", "sequence": "AC"})


def test_rows_format_of_files_is_an_error(tmp_path: Path, make_source: MakeSource) -> None:
    with pytest.raises(StageError, match="rows cannot be read from the files of kind pip"):
        read(tmp_path, make_source(kind=SourceKind.PIP, format=DocumentFormat.ROWS))
