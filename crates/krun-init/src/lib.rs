//! PID 1 of a microVM as an embedded static binary, and the control protocol between it and the host
