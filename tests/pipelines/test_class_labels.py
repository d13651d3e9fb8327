import pytest

from pipelines.class_labels import bare_name, spoken_names
from pipelines.class_names import named_classes


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("traffic_light", "traffic light"),
        ("Band_Aid", "Band Aid"),
        ("bat_(animal)", "bat"),
        ("monitor_(computer_equipment) computer_monitor", "monitor"),
        ("mouse_(computer_equipment):left_button", "mouse left button"),
        ("salmon_(food)", "salmon (food)"),
        ("fish", "fish"),
        ("fish_(food)", "fish (food)"),
        ("pan_(for_cooking):handle", "pan (for cooking) handle"),
        ("(odd)", "(odd)"),
    ],
)
def test_a_class_is_called_what_a_person_says(name: str, said: str) -> None:
    assert spoken_names([name]) == [said]


def test_parentheses_stay_where_they_alone_tell_two_classes_apart() -> None:
    names = ["crane_(bird)", "Crane_(machine)", "mouse_(animal)", "mouse_(animal):ear"]
    assert spoken_names(names) == ["crane (bird)", "Crane (machine)", "mouse", "mouse ear"]


def test_the_words_of_a_class_are_bare() -> None:
    assert bare_name("salmon_(food)") == "salmon"


def test_a_detected_class_is_called_what_a_boxed_one_is() -> None:
    names = ["bat_(animal)", "salmon_(fish)", "salmon_(food)", "Band_Aid"]
    detected = named_classes(names, [[], [], [], []])
    assert [one.label for one in detected] == spoken_names(names)
    assert [one.words for one in detected] == [("bat",), (), (), ("band aid",)]
