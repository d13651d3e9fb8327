"""Which exchanges of a conversation a pass learns from, and in what form they are asked.

In: a conversation of the record. Out: one whose turns are rendered and tokenised as they stand.
Pure text: nothing here knows tokenizers or pictures.
"""

from collections.abc import Callable, Sequence

from msgspec import structs

from roikit.draws import drawn_exchanges, rng, shuffled
from roikit.mentions import mention, mentioned
from roikit.prompt import replace_text
from roikit.sample import Conversation, Turn


def draw_exchanges(
    conversation: Conversation, *, limit: int, seed: int, key: str, ordinal: int, passes: int
) -> Conversation:
    """Shuffle and cap an independent list of exchanges; any other conversation comes back as it is.

    Args:
        conversation: of a sample.
        limit: most exchanges kept; 0 keeps all. What one pass leaves out, the next ones take.
        seed: the run's.
        key: the sample's.
        ordinal: which of the sample's conversations it is.
        passes: how often its source was gone through before.
    """
    if not conversation.independent or len(conversation.turns) <= 2:
        return conversation
    order = drawn_exchanges(
        len(conversation.turns) // 2, limit, seed=seed, key=key, ordinal=ordinal, passes=passes
    )
    turns: list[Turn] = []
    for i in order:
        turns += conversation.turns[2 * i : 2 * i + 2]
    return structs.replace(conversation, turns=tuple(turns))


def ask_together(
    conversation: Conversation, *, share: float, seed: int, key: str, ordinal: int, passes: int
) -> Conversation:
    """Ask a share of the independent lists of exchanges in one turn, answered region by region.

    In the other lists a region's features stand right before what is said of it. Here all regions
    come first, as in dialogues about several regions: the question introduces them in one order and
    asks for them in another, and the answer keeps to that one, naming each region before it speaks
    of it:

        region1 ..., region2 ..., region3 ... . What is region3, region1 and region2?
        region3: a cat

    So which features an answer is about is said by the name alone, not by its place in the list,
    and still the question settles every word of the answer: the name to come next can be read off
    it. (Were only the answer shuffled, nobody could know the order that is expected.)

    Args:
        conversation: of a sample; it comes back as it is unless it is independent and has two or
            more questions of one region each, all of different regions.
        share: of such conversations, 0 to 1.
        seed: the run's.
        key: the sample's.
        ordinal: which of the sample's conversations it is.
        passes: how often its source was gone through before.
    """
    questions, answers = conversation.turns[::2], conversation.turns[1::2]
    if not conversation.independent or not can_be_asked_together(
        [mentioned(turn.text) for turn in questions]
    ):
        return conversation
    generator = rng(seed, key, ordinal, passes, "together")
    if generator.random() >= share:
        return conversation
    names = [mention(mentioned(turn.text)[0]) for turn in questions]
    asked = questions[0].text.replace(names[0], _listed(names))
    question = f"{_listed(shuffled(names, generator))}. {asked}"
    answer = "\n".join(f"{name}: {turn.text}" for name, turn in zip(names, answers, strict=True))
    turns = (replace_text(questions[0], question), replace_text(answers[0], answer))
    return structs.replace(conversation, turns=turns)


def can_be_asked_together(regions: Sequence[Sequence[int]]) -> bool:
    """Say whether questions that mention these regions can be put into one.

    Args:
        regions: the regions that each question mentions, repeats included.
    """
    single = {found[0] for found in regions if len(found) == 1}
    return 1 < len(regions) == len(single)


def is_asked_together(share: float, *, seed: int, key: str, ordinal: int, passes: int) -> bool:
    """Say whether `ask_together` asks a conversation that can be asked so."""
    return rng(seed, key, ordinal, passes, "together").random() < share


def _listed(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}"


def kept_exchanges(num_exchanges: int, max_tokens: int, num_tokens: Callable[[int], int]) -> int:
    """Return how many exchanges are kept of a conversation that may be too long; the last go first.

    Args:
        num_exchanges: of the conversation.
        max_tokens: what it may take.
        num_tokens: what its first so many exchanges take; asked for as few numbers as possible,
            since that means to tokenise them.

    Returns:
        0 where the first exchange alone is too long. It need not be the most that fits: the search
        jumps close to it and goes on one by one.
    """
    kept = num_exchanges
    while kept:
        length = num_tokens(kept)
        if length <= max_tokens:
            return kept
        kept = min(kept - 1, max(1, kept * max_tokens // length + 1))
    return 0
