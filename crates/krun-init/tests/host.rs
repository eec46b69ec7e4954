//! The host's end against guests that behave, and guests that do not.

use krun_init::protocol::{
    Exit, Failed, Hello, MAX_TO_GUEST, MAX_TO_HOST, Resize, Scope, Stage, Started, ToHost, User,
};
use krun_init::{Error, Event, GuestFault, Host, Mount, Start, Stdio};
use proptest::collection::vec;
use proptest::prelude::*;

const HELLO: ToHost<'_> = ToHost::Hello(Hello { features: 5 });
const STARTED: ToHost<'_> = ToHost::Started(Started { pid: 7 });
const FAILED: ToHost<'_> = ToHost::Failed(Failed { stage: Stage::Mount, errno: 30, detail: b"/a\x1b[31m" });
const EXITED: ToHost<'_> = ToHost::Exited(Exit::Code(3));

#[cfg(test)]
fn bytes_of(frames: &[ToHost<'_>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    frames.iter().for_each(|frame| frame.encode(&mut bytes));
    bytes
}

/// Everything the host makes of `frames`.
#[cfg(test)]
fn tell(host: &mut Host, frames: &[ToHost<'_>]) -> Result<Vec<Event>, GuestFault> {
    let bytes = bytes_of(frames);
    let mut input = &bytes[..];
    let mut events = Vec::new();
    while let Some(event) = host.receive(&mut input)? {
        events.push(event);
    }
    Ok(events)
}

#[test]
fn a_conversation_from_hello_to_exit() {
    let start = Start::new(["true"]);
    let mut host = Host::new(&start).unwrap();
    assert_eq!(host.outgoing(), b"", "the guest speaks first");
    assert_eq!(host.signal(15, Scope::Process), Err(Error::NotRunning));
    assert_eq!(tell(&mut host, &[HELLO]).unwrap(), [Event::Greeted { features: 5 }]);
    assert_eq!(host.outgoing(), start.encode().unwrap());
    host.sent(5);
    assert_eq!(host.outgoing(), &start.encode().unwrap()[5..]);
    host.sent(usize::MAX);
    assert_eq!(host.outgoing(), b"");

    assert_eq!(tell(&mut host, &[STARTED]).unwrap(), [Event::Started { pid: 7 }]);
    assert_eq!(host.signal(0, Scope::Process), Err(Error::NoSuchSignal(0)));
    assert_eq!(host.signal(65, Scope::Process), Err(Error::NoSuchSignal(65)));
    host.signal(15, Scope::Group).unwrap();
    host.sent(3);
    host.resize(Resize { columns: 80, rows: 25 }).unwrap();
    assert_eq!(host.outgoing(), b"\x02\0\0\0\0\x04\0\0\0\x0f\x01\0\0kr\x01\x03\0\0\0\0\x04\0\0\0\x50\0\x19\0");

    assert_eq!(tell(&mut host, &[EXITED]).unwrap(), [Event::Exited(Exit::Code(3))]);
    assert!(host.is_over());
    assert_eq!(host.outgoing(), b"");
    assert_eq!(tell(&mut host, &[EXITED]), Err(GuestFault::AfterEnd));
}

#[test]
fn a_failure_is_told_in_words_a_terminal_can_take() {
    let mut host = Host::new(&Start::new(["true"])).unwrap();
    let events = tell(&mut host, &[HELLO, FAILED]).unwrap();
    let [Event::Greeted { .. }, Event::Failed(failure)] = &events[..] else { panic!("{events:?}") };
    assert_eq!(failure.status(), 125);
    assert_eq!(
        failure.to_string(),
        "the guest's init could not mount /a\\x1b[31m: Read-only file system (os error 30)"
    );
    assert!(host.is_over());
}

/// A program that is to be PID 1.
#[cfg(test)]
fn init() -> Start {
    let mut start = Start::new(["init"]);
    start.becomes_init = true;
    start
}

#[test]
fn a_program_that_becomes_pid_1_is_told_by_the_end_of_the_channel() {
    let mut host = Host::new(&init()).unwrap();
    assert_eq!(tell(&mut host, &[HELLO]).unwrap(), [Event::Greeted { features: 5 }]);
    assert_eq!(host.outgoing(), init().encode().unwrap());
    host.sent(usize::MAX);
    assert_eq!(tell(&mut host, &[ToHost::HandingOver]).unwrap(), []);
    assert!(!host.is_over());
    assert_eq!(host.signal(15, Scope::Process), Err(Error::NotRunning));
    assert_eq!(host.resize(Resize::default()), Err(Error::NotRunning));
    assert_eq!(host.close(), Some(Event::HandedOver));
    assert!(host.is_over());
    assert_eq!(host.close(), None);
    assert_eq!(tell(&mut host, &[FAILED]), Err(GuestFault::AfterEnd));
}

#[test]
fn a_program_that_does_not_become_pid_1_says_why() {
    let mut host = Host::new(&init()).unwrap();
    assert_eq!(tell(&mut host, &[HELLO, ToHost::HandingOver, FAILED]).unwrap().len(), 2);
    assert!(host.is_over());
    assert_eq!(host.close(), None);
}

#[test]
fn only_an_announced_end_of_the_channel_is_a_hand_over() {
    // Before the announcement, after nonsense or half a word behind it, and where nothing of the kind was asked for.
    let mut host = Host::new(&init()).unwrap();
    tell(&mut host, &[HELLO]).unwrap();
    assert_eq!(host.close(), None);

    let mut host = Host::new(&init()).unwrap();
    tell(&mut host, &[HELLO, ToHost::HandingOver]).unwrap();
    assert!(host.receive(&mut &b"hardly a frame"[..]).is_err());
    assert_eq!(host.close(), None);

    let failed = bytes_of(&[FAILED]);
    for cut in 1..failed.len() {
        let mut host = Host::new(&init()).unwrap();
        tell(&mut host, &[HELLO, ToHost::HandingOver]).unwrap();
        assert_eq!(host.receive(&mut &failed[..cut]), Ok(None));
        assert_eq!(host.close(), None, "{cut}");
    }

    let mut host = Host::new(&Start::new(["true"])).unwrap();
    tell(&mut host, &[HELLO]).unwrap();
    let expected = "started or failed";
    let unasked = GuestFault::OutOfOrder { frame: "handing over", expected };
    assert_eq!(tell(&mut host, &[ToHost::HandingOver]), Err(unasked));
    assert_eq!(host.close(), None);
}

#[test]
fn only_root_becomes_pid_1() {
    let mut start = init();
    start.user = User { uid: 1000, gid: 0 };
    assert_eq!(start.encode(), Err(Error::InitUser(1000)));
    assert!(Error::InitUser(1000).to_string().contains("cannot run as user 1000"));
    start.user = User { uid: 0, gid: 5 };
    start.encode().unwrap();
}

#[test]
fn after_close_nothing_is_believed() {
    let mut host = Host::new(&Start::new(["true"])).unwrap();
    tell(&mut host, &[HELLO, STARTED]).unwrap();
    assert_eq!(host.close(), None);
    assert_eq!(tell(&mut host, &[EXITED]), Err(GuestFault::AfterEnd));
    assert_eq!(tell(&mut host, &[HELLO]), Err(GuestFault::AfterEnd));
    assert_eq!(host.signal(9, Scope::Process), Err(Error::NotRunning));
}

#[test]
fn a_guest_that_takes_nothing_does_not_make_the_host_grow() {
    let mut host = Host::new(&Start::new(["true"])).unwrap();
    tell(&mut host, &[HELLO, STARTED]).unwrap();
    host.sent(usize::MAX);
    let accepted = (0..100_000).take_while(|_| host.resize(Resize { columns: 1, rows: 1 }).is_ok()).count();
    assert!((10..1000).contains(&accepted), "{accepted}");
    assert!(matches!(host.resize(Resize::default()), Err(Error::Backlog(_))));
    host.sent(usize::MAX);
    host.resize(Resize::default()).unwrap();
}

#[test]
fn what_cannot_be_passed_is_refused_with_its_name() {
    let error = |change: fn(&mut Start)| {
        let mut start = Start::new(["program"]);
        change(&mut start);
        start.encode().unwrap_err().to_string()
    };
    assert_eq!(
        error(|start| start.arguments.clear()),
        "no program to run: the list of arguments is empty; its first entry names the program"
    );
    assert_eq!(
        error(|start| start.arguments.push("a\0b".into())),
        "an argument contains a NUL byte (a\\x00b); remove it"
    );
    assert!(error(|start| start.environment.push(("A=B".into(), "c".into()))).contains("\"A=B\" cannot be the name"));
    assert!(error(|start| start.environment.push(("".into(), "c".into()))).contains("\"\" cannot be the name"));
    assert!(error(|start| start.hostname = "\0".into()).starts_with("the host name contains"));
    assert!(error(|start| start.stdin = Stdio::Port("x".repeat(256))).contains("longer than 255 bytes"));
    assert!(error(|start| start.mounts.push(Mount::shared("a", "/b\0", false))).contains("target of a mount"));
    assert!(error(|start| start.arguments.push("x".repeat(MAX_TO_GUEST as usize).into())).contains("at most 4194304"));
}

#[test]
fn the_default_environment_fills_gaps_only() {
    let variables = |start: &Start| {
        let frame = start.encode().unwrap();
        let payload = &frame[12..];
        let fields = krun_init::protocol::Fields::parse(payload).unwrap();
        let variables = fields.iter().filter_map(|field| match field {
            krun_init::protocol::Field::Variable(variable) => Some(variable.to_str().unwrap().to_owned()),
            _ => None,
        });
        variables.collect::<Vec<_>>()
    };
    let mut start = Start::new(["x"]);
    start.user = User { uid: 5, gid: 5 };
    start.stdout = Stdio::Terminal;
    start.environment = vec![("PATH".into(), "/mine".into())];
    assert_eq!(variables(&start), ["PATH=/mine", "HOME=/", "TERM=xterm-256color"]);
    start.default_environment = false;
    assert_eq!(variables(&start), ["PATH=/mine"]);
}

proptest! {
    /// The order of frames against a table: which may follow which.
    #[test]
    fn only_the_order_of_the_protocol_is_accepted(becomes_init: bool, choice in vec(0..5_usize, 1..6)) {
        let frames = [HELLO, STARTED, FAILED, EXITED, ToHost::HandingOver];
        // State 0: nothing yet, 1: greeted, 2: running, 3: over, 4: handing over.
        let greeted = if becomes_init {
            [None, None, Some(3), None, Some(4)]
        } else {
            [None, Some(2), Some(3), None, None]
        };
        let next = [
            [Some(1), None, None, None, None],
            greeted,
            [None, None, None, Some(3), None],
            [None; 5],
            [None, None, Some(3), None, None],
        ];
        let mut host = Host::new(&if becomes_init { init() } else { Start::new(["true"]) }).unwrap();
        let mut state = Some(0);
        for frame in choice {
            state = state.and_then(|state: usize| next[state][frame]);
            let events = tell(&mut host, &frames[frame..=frame]).map(|events| events.len()).ok();
            prop_assert_eq!(events, state.map(|state| usize::from(state != 4)));
            prop_assert_eq!(host.is_over(), matches!(state, None | Some(3)));
        }
        prop_assert_eq!(host.close().is_some(), state == Some(4));
    }

    #[test]
    fn hostile_bytes_neither_panic_nor_grow(
        greeted: bool,
        becomes_init: bool,
        good in 0..3_usize,
        noise in vec(any::<u8>(), 0..300),
        sizes in vec(1..40_usize, 1..5),
    ) {
        let mut host = Host::new(&if becomes_init { init() } else { Start::new(["true"]) }).unwrap();
        if greeted {
            tell(&mut host, &[HELLO]).unwrap();
        }
        let mut stream = bytes_of(&[HELLO, STARTED, EXITED][..good]);
        stream.extend_from_slice(&noise);
        let mut over = false;
        let mut rest = &stream[..];
        for &size in sizes.iter().cycle() {
            let (mut input, after) = rest.split_at(size.min(rest.len()));
            rest = after;
            if input.is_empty() {
                break;
            }
            loop {
                match host.receive(&mut input) {
                    Ok(None) => { prop_assert!(input.is_empty()); break },
                    Ok(Some(_)) => prop_assert!(!over),
                    Err(_) => { over = true; prop_assert!(host.is_over()); break },
                }
            }
        }
    }
}

#[test]
fn the_longest_frame_of_a_guest_is_small() {
    let mut host = Host::new(&Start::new(["true"])).unwrap();
    let mut header = b"kr\x01\xff\0\0\0\0".to_vec();
    header.extend_from_slice(&(MAX_TO_HOST + 1).to_le_bytes());
    assert!(matches!(host.receive(&mut &header[..]), Err(GuestFault::Malformed(_))));
}
