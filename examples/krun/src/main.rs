//! Runs a command in a microVM.
fn main() {}
