"""Mutated files: what the mutations do, and short runs that feed mutants to vigil."""

from collections import Counter
from random import Random

from builders import make_features, write_checkpoint, write_store
from hypothesis import given
from hypothesis import strategies as st

from bench.reliability import fuzz, fuzz_files, judge
from bench.reliability.fuzz import FAILED, Findings, Options, fuzz_videos, quarters, write_mutants
from bench.reliability.mutations import HEADER_BYTES, MUTATIONS, mutate
from bench.reliability.tiny import draw_corpus
from vigil.extract.errors import UserError
from vigil.pipeline.checkpoint import ResumeState, load_checkpoint, save_checkpoint

SMALL = st.binary(min_size=1, max_size=200)
BY_NAME = {mutation.__name__: mutation for mutation in MUTATIONS}


def apply(name, content, other=b"other", seed=0):
    return BY_NAME[name](content, other, Random(seed))


class TestMutations:
    @given(SMALL, SMALL, st.integers(0, 99), st.integers())
    def test_any_mutation_applies_to_any_file(self, content, other, number, seed):
        mutant = mutate(content, other, number, Random(seed))
        assert mutant.kind == MUTATIONS[number % len(MUTATIONS)].__name__
        assert mutant == mutate(content, other, number, Random(seed))

    @given(SMALL, st.integers())
    def test_mutations_keep_the_other_bytes(self, content, seed):
        assert content.startswith(apply("truncate", content, seed=seed))
        assert Counter(apply("reorder", content, seed=seed)) == Counter(content)
        zeroed = apply("zero", content, seed=seed)
        assert all(new in (old, 0) for old, new in zip(content, zeroed, strict=True))
        spliced = apply("splice", content, b"other", seed)
        assert any(
            spliced == content[:kept] + b"other"[-added:]
            for kept in range(len(content))
            for added in range(1, 6)
        )

    @given(st.integers())
    def test_flips_stay_in_their_region(self, seed):
        content = Random(0).randbytes(3 * HEADER_BYTES)
        header = apply("flip_header", content, seed=seed)
        end = apply("flip_end", content, seed=seed)
        assert header[HEADER_BYTES:] == content[HEADER_BYTES:]
        assert end[:-HEADER_BYTES] == content[:-HEADER_BYTES]
        assert len(header) == len(end) == len(content)

    def test_repetitions(self):
        content = Random(0).randbytes(3 * HEADER_BYTES)
        repeated = apply("repeat_header", content)
        place = repeated.find(content[:HEADER_BYTES], 1)
        assert repeated[:place] + repeated[place + HEADER_BYTES :] == content
        assert len(apply("repeat_stretch", content)) > len(content)


class TestVideos:
    def test_mutants_are_all_kinds_of_all_sources(self, tmp_path):
        sources = [tmp_path / "a.mp4", tmp_path / "b.mkv"]
        for path in sources:
            path.write_bytes(path.name.encode() * 100)
        numbers = range(2 * len(MUTATIONS))
        mutations = write_mutants(sources, numbers, 0, tmp_path / "first")
        pairs = {(kind, name[-5:]) for name, kind in mutations.items()}
        assert len(pairs) == len(mutations) == len(numbers)
        write_mutants(sources, numbers, 0, tmp_path / "second")
        for name in mutations:
            assert (tmp_path / "first" / name).read_bytes() == (
                tmp_path / "second" / name
            ).read_bytes()

    def test_every_mutated_video_gets_its_answer(self, tmp_path):
        draw_corpus(tmp_path / "corpus")
        sources = sorted((tmp_path / "corpus").rglob("*.*"))
        findings = Findings()
        options = Options(tmp_path / "corpus", keep=tmp_path / "kept")
        fuzz_videos(options, sources, range(12), tmp_path / "work", findings)
        assert findings.problems == []
        assert sum(findings.by_mutation.values(), Counter()).total() == 12

    def test_a_video_without_an_answer_is_kept(self, tmp_path, monkeypatch):
        (tmp_path / "a.mp4").write_bytes(b"a" * 100)
        code = "import sys, pathlib; out = pathlib.Path(sys.argv[1]); out.mkdir()"
        code += "; (out / 'failures.csv').write_text('video,reason,decoder,frame\\n'); sys.exit(3)"
        monkeypatch.setattr(fuzz, "cheap_vigil", lambda *given, **_: ["-c", code, str(given[3])])
        options, findings = Options(tmp_path, keep=tmp_path / "kept"), Findings()
        fuzz_videos(options, [tmp_path / "a.mp4"], range(2), tmp_path / "work", findings)
        assert len(findings.problems) == len(list((tmp_path / "kept").iterdir())) == 2
        assert FAILED not in sum(findings.by_mutation.values(), Counter())

    def test_a_run_that_fails_is_a_problem(self, tmp_path, monkeypatch):
        (tmp_path / "a.mp4").write_bytes(b"a" * 100)
        monkeypatch.setattr(fuzz, "cheap_vigil", lambda *_, **__: ["-c", "raise ValueError('ah')"])
        findings = Findings()
        fuzz_videos(Options(tmp_path), [tmp_path / "a.mp4"], range(1), tmp_path / "w", findings)
        assert [problem[:11] for problem in findings.problems] == ["exit code 1"]
        assert "ValueError: ah" in findings.problems[0]

    def test_memory_is_summarized_by_quarters(self):
        assert quarters([1, 5, 2, 2, 9, 3, 4, 4]) == [5, 2, 9, 4]
        assert quarters([1, 2, 3]) == []


class TestJudge:
    def test_hangs_and_crashes_are_distinguished_from_answers(self, monkeypatch):
        monkeypatch.setattr(judge, "HANG_SECONDS", 1)
        code = """
import os, sys, time
for number in range(int(sys.argv[1]), 5):
    if number == 1:
        time.sleep(60)
    if number == 3:
        os._exit(9)
    print("fine", number, flush=True)
"""
        told = judge.answers(["-c", code], list("abcde"))
        assert list(told.values()) == ["fine 0", "hangs", "fine 2", "crashes with 9", "fine 4"]

    def test_verdicts(self):
        def refuse():
            raise UserError("no")

        def fall():
            raise KeyError("a\nb")

        assert judge.verdict(refuse, "content") == judge.REFUSED
        assert judge.verdict(lambda: "content", "content") == judge.SAME
        assert judge.verdict(lambda: "another", "content") == judge.OTHER
        assert judge.verdict(lambda: "another", None) == judge.ACCEPTED
        assert judge.verdict(fall, "content") == "KeyError: 'a\\nb'"
        assert judge.OTHER not in judge.GOOD

    def test_files_of_every_kind_get_their_answer(self, tmp_path, monkeypatch):
        def make_run(folder):
            write_store(folder / "features", make_features())
            write_checkpoint(folder / "run")
            best = load_checkpoint(folder / "run")
            save_checkpoint(folder / "run" / "last", best.config, best.model, ResumeState({}, {}))
            return folder / "run"

        monkeypatch.setattr(fuzz_files, "make_run", make_run)
        table, problems = fuzz_files.fuzz_files(4, 0, tmp_path / "kept")
        assert problems == []
        for kind in judge.READERS:
            assert kind in table
