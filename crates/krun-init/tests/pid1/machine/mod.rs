//! A machine without a machine: PID 1 in namespaces of its own, with files standing in for the console's ports.
//!
//! The namespace has the host's programs, a `/sys` in which the ports have their names, and a `/dev` in which the
//! control port and the terminal are pseudo terminals and the streams are FIFOs.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio as Process};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use krun_init::protocol::{CONTROL_PORT, Exit, Resize, STDERR_PORT, STDIN_PORT, STDOUT_PORT, Scope};
use krun_init::{Event, Failure, Host, INIT, Start, Stdio};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::pty::OpenptFlags;
use rustix::termios::{self, OptionalActions};

const PATIENCE: Duration = Duration::from_secs(30);
const STEP: Timespec = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };

const SETUP: &str = r#"
set -e
mount -t tmpfs root "$ROOT"
cd "$ROOT"
mkdir bin sbin usr lib lib64 etc proc sys dev tmp home
for dir in bin sbin usr lib lib64 etc; do
    if test -d /$dir; then mount --rbind /$dir $dir; fi
done
mount -t tmpfs sys sys
mkdir -p sys/fs/cgroup sys/class/virtio-ports
mount -t tmpfs dev dev
mkdir dev/pts dev/shm
for node in null zero tty; do touch dev/$node; mount --bind /dev/$node dev/$node; done
for file in "$FILES"/dev/*; do touch dev/${file##*/}; mount --bind "$file" dev/${file##*/}; done
touch dev/vport0p1 dev/hvc0
mount --bind "$CONTROL" dev/vport0p1
mount --bind "$TERMINAL" dev/hvc0
for name in "$FILES"/names/*; do
    mkdir sys/class/virtio-ports/${name##*/}
    cp "$name" sys/class/virtio-ports/${name##*/}/name
done
cp "$FILES"/init init
eval "$EXTRA"
# Without CAP_SYS_MODULE PID 1 cannot change the settings of the kernel it shares with everybody here.
exec setpriv --bounding-set -sys_module env LEFT_OVER=1 chroot . /init
"#;

/// A running PID 1.
pub(crate) struct Machine {
    pub(crate) host: Host,
    process: Child,
    control: Option<File>,
    hang_up: Arc<AtomicBool>,
    from_guest: Receiver<Vec<u8>>,
    unread: Vec<u8>,
    terminal: File,
    stdin: Option<JoinHandle<()>>,
    outputs: Option<[JoinHandle<Vec<u8>>; 2]>,
    files: tempfile::TempDir,
}

/// What came of a workload.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) exit: Exit,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: Vec<u8>,
}

impl Outcome {
    pub(crate) fn text(&self) -> String {
        assert!(self.stderr.is_empty(), "stderr: {}", String::from_utf8_lossy(&self.stderr));
        String::from_utf8(self.stdout.clone()).unwrap()
    }
}

/// Whether this user may make namespaces. Says so if not, for a skipped test must not look like a passed one.
pub(crate) fn is_possible() -> bool {
    let attempt = Command::new("unshare")
        .args(["--mount", "--pid", "--fork", "--net"])
        .args(["setpriv", "--bounding-set", "-sys_module", "true"])
        .output();
    let possible = attempt.is_ok_and(|output| output.status.success());
    if !possible {
        eprintln!("SKIPPED: PID 1 needs namespaces of its own; run as root, with util-linux installed");
    }
    possible
}

/// The workload `sh -c SCRIPT`, with all three streams on ports.
pub(crate) fn script(script: &str) -> Start {
    on_ports(["sh", "-c", script])
}

/// A workload with all three streams on ports.
pub(crate) fn on_ports<const N: usize>(arguments: [&str; N]) -> Start {
    let mut start = Start::new(arguments);
    start.stdin = Stdio::Port(STDIN_PORT.into());
    start.stdout = Stdio::Port(STDOUT_PORT.into());
    start.stderr = Stdio::Port(STDERR_PORT.into());
    start
}

impl Machine {
    /// Boots, and asks for `start`; `input` comes through the port of standard input, then its end.
    pub(crate) fn boot(start: &Start, input: &[u8]) -> Self {
        Self::boot_with(start, input, "")
    }

    /// The same, with shell commands that change the root file system first.
    pub(crate) fn boot_with(start: &Start, input: &[u8], extra: &str) -> Self {
        let mut machine = Self::launch(start, input, extra);
        assert_eq!(machine.event(), Event::Greeted { features: 0 });
        machine.send();
        machine
    }

    /// Boots; the host takes only so many bytes of each output, then closes its end.
    pub(crate) fn boot_reading(start: &Start, limit: u64) -> Self {
        let mut machine = Self::launch_reading(start, b"", "", limit);
        assert_eq!(machine.event(), Event::Greeted { features: 0 });
        machine.send();
        machine
    }

    /// Boots, and does not wait for PID 1's greeting.
    pub(crate) fn launch(start: &Start, input: &[u8], extra: &str) -> Self {
        Self::launch_reading(start, input, extra, u64::MAX)
    }

    fn launch_reading(start: &Start, input: &[u8], extra: &str, limit: u64) -> Self {
        let files = tempfile::tempdir().unwrap();
        let path = |name: &str| files.path().join(name);
        for directory in ["root", "dev", "names"] {
            fs::create_dir(path(directory)).unwrap();
        }
        fs::write(path("init"), INIT).unwrap();
        fs::set_permissions(path("init"), fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(path("dev/console"), "").unwrap();
        fs::write(path("names/vport0p1"), format!("{CONTROL_PORT}\n")).unwrap();
        for (device, name) in [("vport0p2", STDIN_PORT), ("vport0p3", STDOUT_PORT), ("vport0p4", STDERR_PORT)] {
            fs::write(path("names").join(device), format!("{name}\n")).unwrap();
            let fifo = path("dev").join(device);
            rustix::fs::mknodat(
                rustix::fs::CWD,
                &fifo,
                rustix::fs::FileType::Fifo,
                rustix::fs::Mode::from_raw_mode(0o600),
                0,
            )
            .unwrap();
        }
        let (control, control_path) = pseudo_terminal(true);
        let (terminal, terminal_path) = pseudo_terminal(false);
        let process = Command::new("unshare")
            .args(["--mount", "--pid", "--fork", "--net", "--uts", "--ipc", "--propagation", "private"])
            .args(["--kill-child", "sh", "-c", SETUP])
            .env("ROOT", path("root"))
            .env("FILES", files.path())
            .env("CONTROL", control_path)
            .env("TERMINAL", terminal_path)
            .env("EXTRA", extra)
            .stdin(Process::null())
            .spawn()
            .unwrap();

        let input = input.to_vec();
        let stdin_path = path("dev/vport0p2");
        let stdin = spawn("stdin", move || {
            let mut port = File::options().write(true).open(stdin_path).unwrap();
            // The workload need not read all of it.
            let _ = port.write_all(&input);
        });
        let outputs = [path("dev/vport0p3"), path("dev/vport0p4")].map(|path| {
            spawn("output", move || {
                let mut bytes = Vec::new();
                File::open(path).unwrap().take(limit).read_to_end(&mut bytes).unwrap();
                bytes
            })
        });

        let (to_test, from_guest) = channel();
        let mut reader = control.try_clone().unwrap();
        let hang_up = Arc::new(AtomicBool::new(false));
        let hang_up_seen = Arc::clone(&hang_up);
        spawn("control", move || {
            let mut buffer = [0; 4096];
            while !hang_up_seen.load(Ordering::Relaxed) {
                let mut wait = [PollFd::new(&reader, PollFlags::IN)];
                if rustix::event::poll(&mut wait, Some(&STEP)).unwrap() == 0 {
                    continue;
                }
                // A pseudo terminal whose other end is closed answers with an error.
                match reader.read(&mut buffer) {
                    Ok(count @ 1..) if to_test.send(buffer[..count].to_vec()).is_ok() => {}
                    _ => break,
                }
            }
        });
        Self {
            host: Host::new(start).unwrap(),
            process,
            control: Some(control),
            hang_up,
            from_guest,
            unread: Vec::new(),
            terminal,
            stdin: Some(stdin),
            outputs: Some(outputs),
            files,
        }
    }

    /// Boots and waits for the end of a workload.
    pub(crate) fn run(start: &Start, input: &[u8]) -> Outcome {
        let mut machine = Self::boot(start, input);
        machine.started();
        machine.outcome()
    }

    /// Boots and expects the workload not to start.
    pub(crate) fn fail(start: &Start) -> Failure {
        let mut machine = Self::boot(start, b"");
        match machine.event() {
            Event::Failed(failure) => {
                machine.expect_power_off();
                failure
            }
            other => panic!("{other:?}"),
        }
    }

    /// The next thing the guest tells.
    pub(crate) fn event(&mut self) -> Event {
        loop {
            let mut bytes = &self.unread[..];
            let event = self.host.receive(&mut bytes).unwrap();
            self.unread = bytes.to_vec();
            match event {
                Some(event) => return event,
                None => match self.from_guest.recv_timeout(PATIENCE) {
                    Ok(bytes) => self.unread = bytes,
                    Err(error) => panic!("{error}; console: {}", self.console()),
                },
            }
        }
    }

    /// Expects that the guest, which has ended, has not said a word on the control channel.
    pub(crate) fn expect_silence(&self) {
        if let Ok(bytes) = self.from_guest.recv_timeout(Duration::from_millis(200)) {
            panic!("{bytes:?}");
        }
    }

    /// Whether the setup has made a file `$FILES/NAME`.
    pub(crate) fn has_file(&self, name: &str) -> bool {
        self.files.path().join(name).exists()
    }

    pub(crate) fn started(&mut self) -> u32 {
        match self.event() {
            Event::Started { pid } => pid,
            other => panic!("{other:?}"),
        }
    }

    /// Opens the workload's end of its standard output, from outside of its namespace, where nobody kills the holder.
    pub(crate) fn hold_stdout(&self) -> File {
        let child_of = |parent: u32| {
            let wanted = format!("PPid:\t{parent}");
            let is_child = |path: &PathBuf| {
                fs::read_to_string(path.join("status")).is_ok_and(|status| status.lines().any(|line| line == wanted))
            };
            fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap().path()).find(is_child).unwrap()
        };
        let number = |path: &Path| path.file_name().unwrap().to_str().unwrap().parse::<u32>().unwrap();
        let init = child_of(self.process.id());
        let workload = child_of(number(&init));
        File::options().write(true).open(workload.join("fd/1")).unwrap()
    }

    /// The end of the workload and everything it wrote.
    pub(crate) fn outcome(&mut self) -> Outcome {
        let exit = match self.event() {
            Event::Exited(exit) => exit,
            other => panic!("{other:?}"),
        };
        self.expect_power_off();
        let [stdout, stderr] = self.outputs.take().unwrap().map(|output| output.join().unwrap());
        Outcome { exit, stdout, stderr }
    }

    /// Waits until the workload has become PID 1.
    pub(crate) fn handed_over(&mut self) {
        while let Ok(bytes) = self.from_guest.recv_timeout(PATIENCE) {
            assert_eq!(self.host.receive(&mut &bytes[..]), Ok(None));
        }
        assert_eq!(self.host.close(), Some(Event::HandedOver), "console: {}", self.console());
    }

    /// What a workload that is PID 1 has written when it has ended.
    pub(crate) fn outputs(&mut self) -> (String, String) {
        self.expect_power_off();
        let [stdout, stderr] = self.outputs.take().unwrap().map(|output| output.join().unwrap());
        (String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
    }

    pub(crate) fn expect_power_off(&self) {
        let (to_test, ended) = channel();
        let pid = rustix::process::Pid::from_child(&self.process);
        spawn("end", move || {
            let _ = to_test.send(rustix::process::waitid(
                rustix::process::WaitId::Pid(pid),
                rustix::process::WaitIdOptions::EXITED | rustix::process::WaitIdOptions::NOWAIT,
            ));
        });
        assert_ne!(ended.recv_timeout(PATIENCE).err(), Some(RecvTimeoutError::Timeout), "the machine does not end");
    }

    pub(crate) fn signal(&mut self, number: u8, scope: Scope) {
        self.host.signal(number, scope).unwrap();
        self.send();
    }

    pub(crate) fn resize(&mut self, columns: u16, rows: u16) {
        self.host.resize(Resize { columns, rows }).unwrap();
        self.send();
    }

    fn send(&mut self) {
        let bytes = self.host.outgoing().to_vec();
        self.send_raw(&bytes);
        self.host.sent(bytes.len());
    }

    /// Sends bytes that the host's end would never send.
    pub(crate) fn send_raw(&mut self, bytes: &[u8]) {
        self.control.as_mut().unwrap().write_all(bytes).unwrap();
    }

    /// Closes the control channel.
    pub(crate) fn hang_up(&mut self) {
        self.control = None;
        self.hang_up.store(true, Ordering::Relaxed);
    }

    /// The other side of the workload's terminal.
    pub(crate) fn terminal(&self) -> File {
        self.terminal.try_clone().unwrap()
    }

    /// Waits until the other side of standard input has been read or given up.
    pub(crate) fn wait_for_stdin(&mut self) {
        self.stdin.take().unwrap().join().unwrap();
    }

    /// What was written to the console.
    pub(crate) fn console(&self) -> String {
        fs::read_to_string(self.files.path().join("dev/console")).unwrap()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // `--kill-child` takes the namespace along.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A pseudo terminal: our side, and the path of the other.
fn pseudo_terminal(raw: bool) -> (File, PathBuf) {
    let master = rustix::pty::openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
    rustix::pty::grantpt(&master).unwrap();
    rustix::pty::unlockpt(&master).unwrap();
    let name = rustix::pty::ptsname(&master, Vec::new()).unwrap();
    let path = Path::new(std::ffi::OsStr::from_bytes(name.as_bytes())).to_owned();
    if raw {
        let mut attributes = termios::tcgetattr(&master).unwrap();
        attributes.make_raw();
        termios::tcsetattr(&master, OptionalActions::Now, &attributes).unwrap();
    }
    (File::from(master), path)
}

fn spawn<T: Send + 'static>(name: &str, body: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    thread::Builder::new().name(name.into()).spawn(body).unwrap()
}
