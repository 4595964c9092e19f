"""The prepared corpus of these tests."""

from prepared_root import root

__all__ = ["root"]
