//! Decisions about foundings, as tables.
