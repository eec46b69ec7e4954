//! What is particular to the PC.

pub(crate) mod address_map;
pub(crate) mod halt;
