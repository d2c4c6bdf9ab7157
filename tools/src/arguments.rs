//! Arguments as models write them.
