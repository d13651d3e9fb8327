import hashlib

from shards import merkle


def sha(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def test_the_tree_is_that_of_rfc_6962():
    a, b, c = (sha(name) for name in (b"a", b"b", b"c"))
    assert merkle.root([]) == hashlib.sha256(b"").hexdigest()
    assert merkle.root([a]) == a.hex()
    left = sha(b"\x01" + a + b)
    assert merkle.root([a, b, c]) == sha(b"\x01" + left + c).hex()
    five = sha(b"\x01" + sha(b"\x01" + left + sha(b"\x01" + c + a)) + b)
    assert merkle.root([a, b, c, a, b]) == five.hex()


def test_a_leaf_depends_on_name_and_content():
    one, two = "11" * 32, "22" * 32
    leaves = {merkle.leaf("a", one), merkle.leaf("b", one), merkle.leaf("a", two)}
    assert len(leaves) == 3
