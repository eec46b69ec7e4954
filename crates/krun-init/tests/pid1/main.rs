//! PID 1 at work, in namespaces of its own (see `machine`), so these tests need root.

#[cfg(test)]
mod init;
#[cfg(test)]
mod machine;
#[cfg(test)]
mod refusals;
#[cfg(test)]
mod workload;

const ENOENT: u32 = 2;
const EACCES: u32 = 13;
const ENOTDIR: u32 = 20;
