"""`hybrid chat`, spoken to through a pipe: the real command, a scripted model."""

import os
import subprocess
import sys

FAKE = '[local]\nmodel = ""\nbackend = "fake"\n'


def _chat(folder, text: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    (folder / "hybrid.toml").write_text(FAKE)
    return subprocess.run(
        [sys.executable, "-m", "hybrid", "chat", "--config", str(folder / "hybrid.toml"), *arguments],
        input=text,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "HYBRID_DATA_DIR": str(folder)},
    )


def test_each_line_is_answered_and_told_about(tmp_path):
    """Answers go to stdout, the line with route, score, tokens and cost to stderr; the end of input ends it."""
    done = _chat(tmp_path, "hello\n\nand again\n")

    assert (done.returncode, done.stdout) == (0, "hello\nand again\n")
    assert done.stderr.count("local: fake  default  score") == 2
    assert "(uncalibrated)" in done.stderr


def test_the_conversation_grows_and_reset_forgets_it(tmp_path):
    """The second turn's prompt is longer than the first; after /reset it is as short again."""
    done = _chat(tmp_path, "same\nsame\n/reset\nsame\n/quit\nnever\n")
    prompts = [int(line.split(" + ")[0].split()[-1]) for line in done.stderr.splitlines() if " + " in line]

    assert prompts[1] > prompts[0] == prompts[2]
    assert "never" not in done.stdout


def test_an_alias_is_no_model_file(tmp_path):
    """A name of [aliases] asks whom it stands for; the configured model stays."""
    (tmp_path / "alias.toml").write_text(f'{FAKE}[aliases]\n"gpt-4.1" = "local"\n')
    done = _chat(tmp_path, "hi\n", "gpt-4.1", "--config", str(tmp_path / "alias.toml"))

    assert (done.returncode, done.stdout) == (0, "hi\n")
    assert "local: fake  pinned" in done.stderr


def test_a_failed_answer_does_not_end_the_conversation(tmp_path):
    """An error is told on stderr, and the next line is answered."""
    done = _chat(tmp_path, "[fail]\nfine\n")

    assert (done.returncode, done.stdout) == (0, "fine\n")
    assert "told to fail" in done.stderr


def test_models_can_be_changed_and_unknown_ones_are_named(tmp_path):
    """/model asks somebody else; a name nobody answers to is an error that lists the valid ones."""
    done = _chat(tmp_path, "/model nobody\nhi\n/model local\nhi\n/what\n")

    assert "no model 'nobody'" in done.stderr
    assert "local: fake  pinned" in done.stderr
    assert "/reset forgets" in done.stderr
