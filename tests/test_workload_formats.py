"""Each format read as published, and each impossible cell named by file, row, column and value."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import numpy as np
import pytest

from apexsim.errors import InputError, UsageError
from apexsim.testing.trace_format import TraceFormatContract
from apexsim.workload.read import read_trace
from apexsim.workload.trace import Trace


class TestEveryFormat(TraceFormatContract):
    """All formats of the registry; a new one is tested without being named here."""


def read(folder: Path, text: str, name: str = "t.csv", format: str | None = None) -> Trace:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return read_trace(path, format)


def error(folder: Path, text: str, name: str = "t.csv") -> str:
    with pytest.raises(InputError) as caught:
        read(folder, text, name)
    message = str(caught.value)
    assert "\n" not in message
    assert name in message
    return message


V1 = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
V3 = "Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,Log Type\n"


def test_burstgpt_1_keeps_its_clock_and_counts_failed_calls(tmp_path):
    rows = "7,ChatGPT,300,21,321,Conversation log\n40,GPT-4,10,0,10,API log\n99,ChatGPT,8,250,258,API log\n"
    trace = read(tmp_path, V1 + rows)
    assert trace.arrival_s.tolist() == [7, 99]
    assert trace.output_tokens.tolist() == [21, 250]
    assert trace.dropped == {"failed (0 response tokens)": 1}
    assert [trace.classes[code] for code in trace.class_code] == ["Conversation log", "API log"]
    assert trace.session is None


def test_burstgpt_3_is_read_by_name_and_starts_at_a_midnight(tmp_path):
    rows = (
        "8640100,feed0001,40,GPT-4,900,400,1300,Conversation log\n"
        "8640150,,2,ChatGPT,30,20,50,API log\n"
        "8640200,feed0001,9,ChatGPT,1700,100,1800,Conversation log\n"
    )
    trace = read(tmp_path, V3 + rows)
    assert trace.arrival_s.tolist() == [100, 150, 200]  # 100 whole days of the file's clock are gone
    assert trace.session.tolist() == [0, -1, 0]
    assert trace.input_tokens.tolist() == [900, 30, 1700]


def test_a_foreign_log_out_of_order_is_sorted_stably_and_says_so(tmp_path):
    trace = read(tmp_path, V1 + "9,A,1,1,2,x\n3,A,2,1,3,x\n9,A,3,1,4,x\n3,A,4,1,5,x\n")
    assert trace.arrival_s.tolist() == [3, 3, 9, 9]
    assert trace.input_tokens.tolist() == [2, 4, 1, 3]
    assert "2 rows arrived before the row above" in trace.notes[0]


def test_azure_timestamps_of_2023_keep_seven_digits(tmp_path):
    rows = "2023-01-02 03:04:05.5000000,210,33\n2023-01-02 03:04:06.7500001,512,64\n"
    trace = read(tmp_path, "TIMESTAMP,ContextTokens,GeneratedTokens\n" + rows)
    assert trace.arrival_s.tolist() == [0.0, 1.2500001]


def test_azure_timestamps_of_2024_carry_an_offset_and_may_lack_a_fraction(tmp_path):
    rows = "2024-01-02 00:00:00.009930+00:00,210,5\n2024-01-02 00:00:01+00:00,512,6\n"
    trace = read(tmp_path, "TIMESTAMP,ContextTokens,GeneratedTokens\n" + rows)
    assert trace.arrival_s.tolist() == [0.0, 0.99007]


def test_a_bad_azure_timestamp_is_named(tmp_path):
    text = "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-01-02 03:04:05.5,1,1\nyesterday,1,1\n"
    assert "row 2: column 'TIMESTAMP' is 'yesterday'" in error(tmp_path, text)


def test_mooncake_is_in_milliseconds_and_512_token_blocks(tmp_path):
    lines = (
        '{"timestamp": 20000, "input_length": 1030, "output_length": 7, "hash_ids": [5, 6, 7]}\n'
        '{"timestamp": 23053, "input_length": 600, "output_length": 1, "hash_ids": [5, 9]}\n'
    )
    trace = read(tmp_path, lines, "t.jsonl")
    assert trace.arrival_s.tolist() == pytest.approx([0.0, 3.053])
    assert trace.hash_ids.tolist() == [5, 6, 7, 5, 9]
    assert trace.hash_offsets.tolist() == [0, 3, 5]
    assert trace.hash_block_tokens == 512


def test_apex_is_in_nanoseconds(tmp_path):
    lines = (
        '{"StartTimeOffset": 1000000000, "ContextTokens": 5, "GeneratedTokens": 6}\n'
        '{"StartTimeOffset": 1250000000, "ContextTokens": 7, "GeneratedTokens": 8}\n'
    )
    assert read(tmp_path, lines, "t.jsonl").arrival_s.tolist() == [0.0, 0.25]


def test_lengths_arrive_all_at_once_and_say_so(tmp_path):
    trace = read(tmp_path, "input_tokens,output_tokens\n101,11\n202,22\n")
    assert trace.arrival_s.tolist() == [0.0, 0.0]
    assert "no arrival times" in trace.notes[0]


def test_our_own_columns_reach_the_trace(tmp_path):
    text = (
        "arrival_s,input_tokens,output_tokens,session,shared_prefix_tokens,block_hashes,class\n"
        "1.5,40,3,a,0,5 6,chat\n"
        "2.5,9,2,,0,,code\n"
        "2.5,70,1,a,32,5 6 7 8,chat\n"
    )
    trace = read(tmp_path, text)
    assert trace.arrival_s.tolist() == [1.5, 2.5, 2.5]
    assert trace.session.tolist() == [0, -1, 0]
    assert trace.shared_prefix_tokens.tolist() == [0, 0, 32]
    assert trace.hash_ids.tolist() == [5, 6, 5, 6, 7, 8]
    assert trace.hash_offsets.tolist() == [0, 2, 2, 6]
    assert trace.hash_block_tokens == 16
    assert trace.classes == ("chat", "code")


def test_the_block_size_follows_from_the_lengths_or_is_said(tmp_path):
    rows = "0,600,1,1 2\n1,512,1,1\n"
    header = "arrival_s,input_tokens,output_tokens,block_hashes"
    assert read(tmp_path, f"{header}\n{rows}").hash_block_tokens == 512
    said = "0,600,1,1 2,300\n1,512,1,1,300\n"
    assert read(tmp_path, f"{header},hash_block_tokens\n{said}").hash_block_tokens == 300
    assert "no block of 16 to 4096 tokens" in error(tmp_path, f"{header}\n0,600,1,1 2\n1,600,1,1 2 3\n")


def test_failed_rows_of_our_own_format_are_dropped_and_counted(tmp_path):
    text = "arrival_s,input_tokens,output_tokens,failed\n0,5,1,False\n1,0,0,True\n2,5,2,False\n"
    trace = read(tmp_path, text)
    assert trace.arrival_s.tolist() == [0, 2]
    assert trace.dropped == {"failed": 1}


def test_a_column_that_is_not_read_is_said_with_the_nearest_name(tmp_path):
    trace = read(tmp_path, "arrival_s,input_tokens,output_tokens,sesion,model\n0,5,1,a,GPT\n")
    assert len(trace.notes) == 1
    assert "unknown column 'sesion'; did you mean 'session'?" in trace.notes[0]


OWN = "arrival_s,input_tokens,output_tokens\n"


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ("", "the trace is empty"),
        ("0,5,1\n3,5,1\n2,5,1\n", "row 3: arrival_s is 2 (allowed: not less than in the row above"),
        ("0,5,1\n1,5,0\n", "row 2: output_tokens is 0 (allowed: 1 or more"),
        ("0,0,1\n", "row 1: input_tokens is 0 (allowed: 1 or more"),
        ("0,5,1\n1,-7,1\n", "row 2: input_tokens is -7 (allowed: a whole number, 0 or more)"),
        ("0,5,nan\n", "row 1: output_tokens is nan (allowed: a whole number, 0 or more)"),
        ("0,5,1\n1,5,\n", "row 2: output_tokens is empty"),
        ("0,5.5,1\n", "row 1: input_tokens is 5.5 (allowed: a whole number"),
        ("0,5,1\n1,many,1\n", "row 2: column 'input_tokens' is 'many' (allowed: a number)"),
        ("-1,5,1\n", "row 1: arrival_s is -1 (allowed: 0 or more)"),
        ("inf,5,1\n", "row 1: arrival_s is inf"),
        ("0,1e30,5\n", "row 1: input_tokens is 1e+30 (allowed: a whole number, 2^53 or less)"),
        ("0,5,9007199254740994\n", "row 1: output_tokens is 9007199254740994.0 (allowed: a whole number, 2^53"),
        ("0,5,1\n1e300,5,1\n", "row 2: arrival_s is 1e+300 (allowed: 1e+12 or less)"),
        ("0,5,1\n1,5\n", "row 2: 2 cells (allowed: 3, as in the header)"),
    ],
)
def test_an_impossible_row_of_our_own_format_is_named(tmp_path, rows, said):
    assert said in error(tmp_path, OWN + rows)


@pytest.mark.parametrize(
    ("column", "cell", "said"),
    [
        ("block_hashes", "1 x", "row 2: block_hashes holds 'x' (allowed: whole numbers below 2^63"),
        ("block_hashes", "1  2", "row 2: block_hashes holds ''"),
        ("block_hashes", "99999999999999999999", "row 2: block_hashes holds '99999999999999999999'"),
        ("shared_prefix_tokens", "6", "row 2: shared_prefix_tokens is 6 (allowed: no more than input_tokens)"),
        ("shared_prefix_tokens", "-1", "row 2: shared_prefix_tokens is -1"),
        ("failed", "perhaps", "row 2: failed is 'perhaps' (allowed: true, false)"),
        ("hash_block_tokens,block_hashes", "16,1 2", "row 2: the number of block_hashes is 2 (allowed: as many"),
        ("hash_block_tokens,block_hashes", "0,1", "hash_block_tokens is [0.0, 16.0] (allowed: one whole number"),
    ],
)
def test_an_impossible_optional_cell_is_named(tmp_path, column, cell, said):
    good = {"block_hashes": "1", "shared_prefix_tokens": "0", "failed": "false"}.get(column, "16,1")
    rows = f"0,5,1,{good}\n1,5,1,{cell}\n"
    assert said in error(tmp_path, f"arrival_s,input_tokens,output_tokens,{column}\n{rows}")


@pytest.mark.parametrize("session", ["a", "--5", "1.5", "²"])
def test_any_text_is_a_session(tmp_path, session):
    text = f"arrival_s,input_tokens,output_tokens,session\n0,5,1,{session}\n1,5,1,7\n2,5,1,{session}\n"
    assert read(tmp_path, text).session.tolist() == [0, 1, 0]


def test_a_column_that_is_there_twice_is_refused(tmp_path):
    assert "column 'output_tokens' is there twice" in error(tmp_path, OWN.strip() + ",output_tokens\n0,5,1,2\n")


def test_more_bad_rows_are_counted(tmp_path):
    assert "2 more such rows" in error(tmp_path, OWN + "0,5,0\n1,5,0\n2,5,1\n3,5,0\n")


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ('{"timestamp": 0, "input_length": 5, "output_length": 1, "hash_ids": [1]}\n{"timestamp": 9, "inp', "line 2"),
        ('{"timestamp": 0, "input_length": 5, "output_len', "line 1: no complete JSON object"),
        ('{"timestamp": 0, "input_length": "five", "output_length": 1, "hash_ids": []}\n', "'input_length' is 'five'"),
        ('{"timestamp": 0, "input_length": NaN, "output_length": 1, "hash_ids": []}\n', "input_length is nan"),
        ('{"timestamp": 0, "input_length": -5, "output_length": 1, "hash_ids": []}\n', "input_length is -5"),
        ('{"timestamp": 0, "input_length": 5, "hash_ids": []}\n', "output_length is empty"),
        ('{"timestamp": 0, "input_length": 5, "output_length": 1}\n', "hash_ids is missing"),
        ('{"timestamp": 0, "input_length": 5, "output_length": 1, "hash_ids": ["a"]}\n', "'hash_ids' is ['a']"),
        (
            '{"timestamp": 0, "input_length": 5, "output_length": 1, "hash_ids": [1, null]}\n',
            "row 1: hash_ids holds null",
        ),
        ('{"timestamp": 0, "input_length": 5, "output_length": 1, "hash_ids": [1.5]}\n', "'hash_ids' is [1.5]"),
        (
            '{"timestamp": 0, "input_length": 513, "output_length": 1, "hash_ids": [1, 2, 3]}\n',
            "row 1: the number of hash_ids is 3 (allowed: as many ids as the prompt has started blocks of 512 tokens",
        ),
        ('[{"timestamp": 0, "input_length": 5}]\n', "of no known trace format"),
    ],
)
def test_an_impossible_line_of_json_is_named(tmp_path, lines, said):
    assert said in error(tmp_path, lines, "t.jsonl")


def test_negative_tokens_of_a_foreign_log_are_an_error_not_a_dropped_row(tmp_path):
    assert "row 1: response tokens is -3" in error(tmp_path, V1 + "5,A,1,-3,1,x\n")


def test_a_log_of_nothing_but_failures_says_so(tmp_path):
    assert "no request is left of 1 rows (1 failed (0 response tokens))" in error(tmp_path, V1 + "5,A,1,0,1,x\n")


def test_a_truncated_gzip_file_is_an_error(tmp_path):
    whole = gzip.compress((OWN + "".join(f"{i},{i % 97 + 1},5\n" for i in range(5000))).encode())
    (tmp_path / "t.csv.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"t.csv.gz: cannot be read"):
        read_trace(tmp_path / "t.csv.gz")


def test_gzip_is_seen_by_its_bytes_not_by_its_name(tmp_path):
    (tmp_path / "t.csv").write_bytes(gzip.compress((OWN + "0,5,1\n").encode()))
    assert len(read_trace(tmp_path / "t.csv")) == 1


def test_windows_line_ends_and_a_byte_order_mark_are_no_problem(tmp_path):
    (tmp_path / "t.csv").write_bytes(b"\xef\xbb\xbf" + (OWN + "0,5,1\n1,6,2\n").replace("\n", "\r\n").encode())
    assert read_trace(tmp_path / "t.csv").input_tokens.tolist() == [5, 6]


def test_an_unknown_header_lists_the_known_ones(tmp_path):
    message = error(tmp_path, "when,in,out\n0,1,2\n")
    assert "header 'when,in,out' is of no known trace format" in message
    assert "(known: apex, apexsim, azure, burstgpt" in message
    assert len(error(tmp_path, "x" * 5000 + "\n0,1,2\n")) < 300 + len(str(tmp_path))


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ("TIMESTAMP,ContextTokens", "column 'GeneratedTokens' is missing for azure (TIMESTAMP,"),
        ("arrival_s,input_tokens,class", "column 'output_tokens' is missing for apexsim (arrival_s,"),
        ("output_tokens", "column 'input_tokens' is missing for lengths (input_tokens,"),
        ('{"timestamp": 5, "output_length": 3}', "column 'input_length' is missing for mooncake ({"),
    ],
)
def test_a_header_that_lacks_one_column_says_which(tmp_path, header, said):
    assert said in error(tmp_path, header + "\n")


@pytest.mark.parametrize("data", [(OWN + "0,5,1\n").encode("utf-16"), b"\0\1\2\n", b"\x80\x81abc\n", b"PK\3\4\0"])
def test_what_is_no_text_is_said_without_its_bytes(tmp_path, data):
    (tmp_path / "t.csv").write_bytes(data)
    with pytest.raises(InputError, match=r"t.csv: not a text file \(byte \d+ is "):
        read_trace(tmp_path / "t.csv")


def test_a_pipe_or_a_device_is_no_trace(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path(os.devnull)):
        with pytest.raises(InputError, match=f"{path}: not a regular file"):
            read_trace(path)


def test_a_missing_file_says_what_is_near(tmp_path):
    (tmp_path / "azure.csv").write_text(OWN, encoding="utf-8")
    with pytest.raises(InputError, match=r"no such file; did you mean 'azure.csv'"):
        read_trace(tmp_path / "azur.csv")


def test_a_format_can_be_forced_and_must_be_known(tmp_path):
    with pytest.raises(InputError, match="column 'timestamp' is missing"):
        read(tmp_path, OWN + "0,5,1\n", format="burstgpt")
    with pytest.raises(UsageError, match="did you mean 'burstgpt'"):
        read(tmp_path, OWN + "0,5,1\n", format="burst-gpt")


def test_parquet_of_ours_is_read_like_the_csv(tmp_path):
    from apexsim.workload.write import write_trace

    text = "arrival_s,input_tokens,output_tokens,session,block_hashes,class\n0.1,33,1,7,1 2,a\n0.7,5,2,,,b\n"
    trace = read(tmp_path, text)
    write_trace(trace, tmp_path / "t.parquet")
    again = read_trace(tmp_path / "t.parquet")
    assert np.array_equal(again.arrival_s, trace.arrival_s)
    assert again.session.tolist() == [7, -1]
    assert again.hash_ids.tolist() == [1, 2]
    assert again.classes == ("a", "b")
