"""The conversation at a terminal: lines in, streamed answers out, commands that start with a slash.

Reading and writing are functions that are handed in, so the same loop serves a person, a pipe and a
test. Answers go to `write` (a command's result), everything else to `note`.
"""

import contextlib
import glob
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from roikit import draw
from roikit.chat.parsing import format_box
from roikit.chat.session import Session
from roikit.errors import RoikitError, UsageError
from roikit.mentions import plain
from roikit.render import printable

#: Takes the prompt, returns a line without its end; EOFError ends the conversation.
Read = Callable[[str], str]
#: Takes text as it is, line feeds included.
Write = Callable[[str], object]

PROMPT = "> "

#: Every command: its name, what may follow, and what it does.
COMMANDS: tuple[tuple[str, str, str], ...] = (
    ("/box", "x0,y0,x1,y1 [LABEL]", "add a region, in pixels or as fractions of the picture"),
    ("/regions", "", "list the regions and show them on the picture"),
    ("/undo", "", "take back the last question or the last region, whichever came later"),
    ("/clear", "[all]", "forget what was said; with `all`, the regions too"),
    ("/whole", "QUESTION", "ask without naming a region, about the picture as a whole"),
    ("/save", "[NAME]", "write NAME.json (a roikit sample) and NAME.png (with the regions)"),
    ("/image", "PATH", "go on with another picture"),
    ("/help", "", "show this"),
    ("/quit", "", "leave (so does the end of the input)"),
)


@dataclass(kw_only=True)
class Terminal:
    """Where a conversation is held.

    Lines are read with `read`; answers go to `write` and remarks, errors and pictures to `note`.
    """

    read: Read
    write: Write
    note: Write
    environ: Mapping[str, str]  #: decides whether pictures can be shown
    is_interactive: bool  #: a person is there: greet, show pictures, survive Ctrl-C


def standard_terminal(environ: Mapping[str, str]) -> Terminal:
    """Return the process's own terminal: stdin, answers on stdout, the rest on stderr.

    Where stdin is no terminal, lines are read until it ends and no prompt is shown.
    """
    is_interactive = sys.stdin.isatty() and sys.stderr.isatty()
    if is_interactive:
        _complete_commands()

    def read(prompt: str) -> str:
        if is_interactive:
            if sys.stdout.isatty():
                return input(prompt)
            # `input` would write its prompt among the answers
            sys.stderr.write(prompt)
            sys.stderr.flush()
            return input()
        line = sys.stdin.readline()
        if not line:
            raise EOFError
        return line.rstrip("\r\n")

    return Terminal(
        read=read,
        write=_flushed(sys.stdout.write, sys.stdout.flush),
        note=_flushed(sys.stderr.write, sys.stderr.flush),
        environ=environ,
        is_interactive=is_interactive,
    )


def converse(session: Session, terminal: Terminal) -> int:
    """Hold a conversation until `/quit` or the end of the input.

    A line that fails is answered with what was wrong and leaves the conversation as it was. Ctrl-C
    stops an answer, which stays as far as it came; at the prompt a second one ends it all.

    Returns:
        How many lines failed, so that a script can tell.

    Raises:
        KeyboardInterrupt: Ctrl-C twice at the prompt, or once where no person is there.
    """
    conversation = _Conversation(session, terminal)
    if terminal.is_interactive:
        conversation.greet()
    is_interrupted = False
    while True:
        try:
            line = terminal.read(PROMPT)
        except EOFError:
            if terminal.is_interactive:
                terminal.note("\n")
            return conversation.num_failed
        except KeyboardInterrupt:
            if is_interrupted or not terminal.is_interactive:
                raise
            is_interrupted = True
            terminal.note("\n(Ctrl-C again, or /quit, to leave)\n")
            continue
        is_interrupted = False
        if line.strip() and not conversation.handle(line.strip()):
            return conversation.num_failed


def answer(session: Session, text: str, terminal: Terminal, *, name_region: bool = True) -> None:
    """Ask `text` and write the answer as it comes, on lines of its own.

    Raises:
        UsageError: the text names a region that does not exist, or is empty.
        KeyboardInterrupt: the answer was stopped; it stays as far as it came.
    """
    asked = session.user_text(text, name_region=name_region)
    if terminal.is_interactive and asked != session.user_text(text, name_region=False):
        terminal.note(f"({plain(asked)})\n")
    said = ""
    with contextlib.closing(session.stream(text, name_region=name_region)) as pieces:
        try:
            for piece in pieces:
                shown = piece if said else piece.lstrip()
                terminal.write(printable(shown))
                said += shown
        finally:
            if said:
                terminal.write("\n")
    if not said:
        terminal.note("(no answer)\n")


class _Conversation:
    """The state of one run of `converse`."""

    def __init__(self, session: Session, terminal: Terminal) -> None:
        self.session = session
        self.terminal = terminal
        self.num_failed = 0
        self.drawn_folder: Path | None = None  #: made when a picture cannot be shown in place

    def greet(self) -> None:
        width, height = self.session.image_wh
        self.say(f"{self.session.picture.name}, {width} x {height} pixels; /help lists commands")
        self.list_regions()
        self.show_picture()

    def handle(self, line: str) -> bool:
        """Do what a line asks; False ends the conversation."""
        word, _, rest = line.partition(" ")
        rest = rest.strip()
        try:
            if word == "/quit" or word == "/exit":
                return False
            if word.startswith("/"):
                self.command(word, rest)
            else:
                answer(self.session, line, self.terminal)
        except RoikitError as error:
            self.num_failed += 1
            self.say(f"error: {error}")
            if error.hint:
                self.say(f"hint: {error.hint}")
        except KeyboardInterrupt:
            if not self.terminal.is_interactive:
                raise
            self.say("(stopped)")
        return True

    def command(self, word: str, rest: str) -> None:
        commands: dict[str, Callable[[str], None]] = {
            "/box": self.box,
            "/regions": self.regions,
            "/undo": self.undo,
            "/clear": self.clear,
            "/whole": self.whole,
            "/save": self.save,
            "/image": self.image,
            "/help": self.help,
        }
        if word not in commands:
            names = ", ".join(name for name, _, _ in COMMANDS)
            raise UsageError(f"`{word}`: no such command; there are {names}")
        takes = next(argument for name, argument, _ in COMMANDS if name == word)
        if rest and not takes:
            raise UsageError(f"`{word}`: expected nothing after it, got `{rest}`")
        commands[word](rest)

    def box(self, rest: str) -> None:
        box, label = _split_box(rest)
        number = self.session.add_region(box, label=label)
        self.say(self.region_line(number))
        self.show_picture()

    def regions(self, _: str) -> None:
        if not self.session.regions:
            self.say("no regions yet; /box adds one")
            return
        self.list_regions()
        if self.terminal.is_interactive:
            if self.drawn_folder is None:
                self.drawn_folder = Path(tempfile.mkdtemp(prefix="roikit-chat-"))
            self.show_picture(self.drawn_folder / "regions.png")

    def undo(self, _: str) -> None:
        taken_back = self.session.undo()
        self.say(f"took back {taken_back}" if taken_back else "nothing to take back")

    def clear(self, rest: str) -> None:
        if rest not in ("", "all"):
            raise UsageError(f"`/clear`: expected nothing or `all`, got `{rest}`")
        self.session.clear(keep_regions=rest != "all")
        left = len(self.session.regions)
        self.say(f"forgot what was said; regions kept: {left}" if left else "starting anew")

    def whole(self, rest: str) -> None:
        answer(self.session, rest, self.terminal, name_region=False)

    def save(self, rest: str) -> None:
        for file in self.session.save(rest or self.free_name()):
            self.say(f"wrote {file}")

    def image(self, rest: str) -> None:
        if not rest:
            raise UsageError("`/image`: expected the path of a picture")
        self.session = self.session.with_image(rest.strip("'\""))
        width, height = self.session.image_wh
        self.say(f"{self.session.picture.name}, {width} x {height} pixels; no regions yet")
        self.show_picture()

    def help(self, _: str) -> None:
        self.say(
            "Ask about regions as region1, region 1 or <region1>. A question that names none is"
        )
        self.say("about the newest region, or about those you last named.")
        for name, argument, purpose in COMMANDS:
            self.say(f"  {f'{name} {argument}'.rstrip():<28} {purpose}")

    def list_regions(self) -> None:
        for number in range(1, len(self.session.regions) + 1):
            self.say(self.region_line(number))

    def region_line(self, number: int) -> str:
        region = self.session.regions[number - 1]
        line = f"region{number}  {draw.colour(number)[0]:<8}  {format_box(region.box_xyxy)}"
        return f"{line}  {region.label}" if region.label else line

    def show_picture(self, png_path: Path | None = None) -> None:
        """Show the picture where the terminal can; else write it to `png_path` and say so."""
        terminal = self.terminal
        if not terminal.is_interactive:
            return
        protocol = draw.inline_protocol(terminal.environ, is_terminal=True)
        if protocol is None and png_path is None:
            return
        drawn = draw.draw_regions(self.session.picture.pixels, self.session.regions)
        written = draw.show(
            drawn,
            write=terminal.note,
            environ=terminal.environ,
            is_terminal=True,
            png_path=None if protocol else png_path,
        )
        if written is not None:
            self.say(f"the picture with its regions: {written}")

    def free_name(self) -> str:
        """`chat-photo`, or the first of `chat-photo-2`, `chat-photo-3`, … that is free."""
        stem = f"chat-{Path(self.session.picture.name).stem}"
        number = 1
        while True:
            name = stem if number == 1 else f"{stem}-{number}"
            if not any(Path().glob(f"{glob.escape(name)}[.-]*")):
                return name
            number += 1

    def say(self, text: str) -> None:
        self.terminal.note(text + "\n")


def _split_box(rest: str) -> tuple[str, str | None]:
    """Cut `10,20, 30,40 the dog` into its four numbers and a label."""
    words = rest.replace(",", ", ").split()
    numbers = 0
    while numbers < len(words) and _is_number(words[numbers].strip(",;()[]")):
        numbers += 1
        if numbers == 4:
            break
    if numbers < 4:
        return rest, None
    return " ".join(words[:4]), " ".join(words[4:]).strip(",") or None


def _is_number(word: str) -> bool:
    with contextlib.suppress(ValueError):
        float(word)
        return True
    return False


def _flushed(write: Write, flush: Callable[[], object]) -> Write:
    def write_now(text: str) -> None:
        write(text)
        flush()

    return write_now


def _complete_commands() -> None:
    """Give `input` history and completion of commands and paths, where readline is there."""
    try:
        import readline
    except ImportError:
        return

    def complete(text: str, state: int) -> str | None:
        line = readline.get_line_buffer()
        if line.startswith("/image "):
            folder, _, start = text.rpartition("/")
            folder = f"{folder}/" if "/" in text else ""
            names = Path(folder).expanduser().glob(f"{glob.escape(start)}*")
            found = sorted(f"{folder}{path.name}" for path in names)
        else:
            found = [name for name, _, _ in COMMANDS if name.startswith(text) and line == text]
        return found[state] if state < len(found) else None

    readline.set_completer_delims(" ")
    readline.set_completer(complete)
    readline.parse_and_bind("tab: complete")
