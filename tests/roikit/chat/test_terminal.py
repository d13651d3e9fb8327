import os
import subprocess
import sys
from pathlib import Path

import PIL.Image
import pytest

from roikit.chat.terminal import COMMANDS, Terminal, answer, converse
from roikit.sample import decode_sample

A = (10, 10, 60, 60)


class Script:
    """Lines that are typed one after the other, and what came back."""

    def __init__(self, *lines, environ=None, is_interactive=True):
        self.lines = list(lines)
        self.answers = ""
        self.notes = ""
        self.prompts = []
        self.terminal = Terminal(
            read=self.read,
            write=self.write,
            note=self.note,
            environ=environ or {},
            is_interactive=is_interactive,
        )

    def read(self, prompt):
        self.prompts.append(prompt)
        if not self.lines:
            raise EOFError
        line = self.lines.pop(0)
        if line == "^C":
            raise KeyboardInterrupt
        return line

    def write(self, text):
        self.answers += text

    def note(self, text):
        self.notes += text


def test_a_conversation_with_boxes_added_on_the_way(make_session):
    session, model = make_session("a dog", "it is red")
    script = Script(
        "/box 10,10,60,60 the dog", "", "What is region 1?", "/box 0.5 0.5 0.75 1.0", "colour?"
    )
    assert converse(session, script.terminal) == 0
    assert script.answers == "a dog \nit is red \n"
    assert "region1  red       10,10,60,60  the dog" in script.notes
    assert "region2  green     100,50,150,100" in script.notes
    assert "(region2: colour?)" in script.notes
    assert len(model.prompts[1].turns) == 3


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("/box 1,2,3", "expected four numbers `x0,y0,x1,y1`, got 3"),
        ("/box 1,2,three,4", "`three` is none"),
        ("/box", "got 0"),
        ("/box 50,1,10,5", "x0 < x1"),
        ("What is region7?", "`region7` does not exist; there is region1"),
        ("/zoom 3", "`/zoom`: no such command; there are /box, /regions"),
        ("/undo 3", "expected nothing after it, got `3`"),
        ("/clear nothing", "expected nothing or `all`"),
        ("/whole", "expected a question"),
        ("/save", "nothing has been said"),
        ("/image", "expected the path"),
        ("/image absent.jpg", "`absent.jpg`: no such picture"),
    ],
)
def test_a_wrong_line_is_answered_and_the_conversation_goes_on(make_session, line, says):
    session, _ = make_session(boxes=[A])
    script = Script(line, "What is region1?")
    assert converse(session, script.terminal) == 1
    assert script.notes.count("error: ") == 1
    assert says in script.notes
    assert script.answers == "a cat \n"


def test_help_lists_every_command_and_each_works(make_session, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    session, _ = make_session(boxes=[A])
    script = Script(*(name for name, _, _ in COMMANDS if name not in ("/quit", "/box", "/image")))
    converse(session, script.terminal)
    for name, _, purpose in COMMANDS:
        assert f"  {name}" in script.notes
        assert purpose in script.notes
    assert "no such command" not in script.notes


def test_quit_ends_before_the_next_line(make_session):
    session, model = make_session()
    script = Script("/quit", "What is here?")
    converse(session, script.terminal)
    assert not model.prompts
    assert script.lines == ["What is here?"]


def test_undo_clear_and_whole(make_session):
    session, model = make_session(boxes=[A])
    script = Script("What is it?", "/undo", "/whole What is here?", "/clear", "/clear all", "/undo")
    converse(session, script.terminal)
    assert "took back the question `region1: What is it?`" in script.notes
    assert "regions kept: 1" in script.notes
    assert "starting anew" in script.notes
    assert "nothing to take back" in script.notes
    assert [turn.text for turn in model.prompts[1].turns] == ["What is here?"]


def test_save_finds_free_names_and_writes_a_sample(make_session, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    session, _ = make_session(boxes=[A])
    script = Script("What is region1?", "/save", "/save", "/save talks/mine", "/save talks/mine")
    assert converse(session, script.terminal) == 1
    for name in ("chat-image", "chat-image-2", "talks/mine"):
        assert decode_sample(Path(f"{name}.json").read_bytes()).dataset == "chat"
        assert PIL.Image.open(f"{name}.png").format == "PNG"
        assert f"wrote {name}.json" in script.notes
    assert "is there already" in script.notes


def test_image_goes_on_with_another_picture(make_session, tmp_path):
    path = tmp_path / "my other.png"
    PIL.Image.new("RGB", (30, 20)).save(path)
    session, model = make_session(boxes=[A])
    script = Script("What is region1?", f"/image '{path}'", "And here?")
    converse(session, script.terminal)
    assert "my other.png, 30 x 20 pixels" in script.notes
    assert model.prompts[1].image.shape == (20, 30, 3)
    assert len(model.prompts[1].turns) == 1


def test_ctrl_c_stops_an_answer_and_twice_at_the_prompt_leaves(make_session):
    session, model = make_session("one CTRL-C two")
    script = Script("Count", "^C", "And?", "^C", "^C", "never read")
    with pytest.raises(KeyboardInterrupt):
        converse(session, script.terminal)
    assert "(stopped)" in script.notes
    assert [turn.text for turn in model.prompts[1].turns] == ["Count", "one", "And?"]
    assert script.lines == ["never read"]


def test_ctrl_c_ends_a_piped_conversation(make_session):
    session, _ = make_session("one CTRL-C two")
    with pytest.raises(KeyboardInterrupt):
        converse(session, Script("Count", is_interactive=False).terminal)


def test_a_silent_model_is_said_to_be(make_session):
    session, _ = make_session("")
    script = Script("Anything?")
    converse(session, script.terminal)
    assert "(no answer)" in script.notes
    assert not script.answers.strip()


def test_a_pipe_gets_answers_only(make_session):
    session, _ = make_session(boxes=[A])
    script = Script("What is it?", is_interactive=False)
    converse(session, script.terminal)
    assert script.answers == "a cat \n"
    assert script.notes == ""


def test_regions_are_shown_in_place_or_as_a_file(make_session):
    session, _ = make_session(boxes=[A])
    kitty = Script("/regions", environ={"TERM": "xterm-kitty"})
    converse(session, kitty.terminal)
    assert kitty.notes.count("\x1b_Ga=T") == 2  # the greeting's and the command's
    plain = Script("/regions", environ={"TERM": "xterm"})
    converse(session, plain.terminal)
    assert "\x1b" not in plain.notes
    shown = plain.notes.rpartition("the picture with its regions: ")[2].strip()
    assert PIL.Image.open(shown).format == "PNG"
    Path(shown).unlink()
    Path(shown).parent.rmdir()


def test_one_question_can_be_answered_without_a_conversation(make_session):
    session, _ = make_session("a dog", boxes=[A])
    script = Script(is_interactive=False)
    answer(session, "What is it?", script.terminal)
    assert script.answers == "a dog \n"


def test_lines_come_from_a_pipe_until_it_ends(tmp_path):
    program = tmp_path / "talk.py"
    program.write_text(
        "import sys, numpy\n"
        "from roikit.mentions import plain\n"
        "from roikit.chat.session import Session\n"
        "from roikit.chat.terminal import converse, standard_terminal\n"
        "class Echo:\n"
        "    def stream(self, prompt, **decoding):\n"
        "        yield plain(prompt.turns[-1].text)\n"
        "session = Session(Echo(), numpy.zeros((9, 9, 3), numpy.uint8))\n"
        "sys.exit(converse(session, standard_terminal({})))\n"
    )
    done = subprocess.run(
        [sys.executable, str(program)],
        input="first\r\n\n/box 1,1,5,5\nwhat is REGION 2?\nlast",
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
    )
    assert done.stdout == "first\nregion1: last\n"
    assert "there is region1" in done.stderr
    assert "> " not in done.stdout + done.stderr
    assert done.returncode == 1
