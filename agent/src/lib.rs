//! The weft agent as a library, so that tests use the same code.
