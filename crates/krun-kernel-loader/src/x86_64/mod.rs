//! What is special about x86_64: where things lie, and the tables a kernel without firmware reads.

pub mod boot_params;
pub mod layout;
pub mod memory_map;
pub mod mptable;
pub mod pvh;
