//! The command line against a model of the kernel's own reader.

use proptest::prelude::*;

use super::*;

/// What a kernel makes of a command line.
#[derive(Debug, Default, PartialEq, Eq)]
struct Parsed {
    params: Vec<(Vec<u8>, Option<Vec<u8>>)>,
    init_args: Vec<Vec<u8>>,
}

/// One word: ends at white space outside of quotes; the first `=` splits it; quotes at the start of the value or of
/// the word, and the one that closes them, go.
fn next_word(line: &[u8]) -> (Vec<u8>, Option<Vec<u8>>, &[u8]) {
    let whole_quoted = line.first() == Some(&b'"');
    let body = if whole_quoted { &line[1..] } else { line };
    let (mut in_quotes, mut equals, mut end) = (whole_quoted, None, body.len());
    for (at, byte) in body.iter().enumerate() {
        if is_kernel_space(*byte) && !in_quotes {
            end = at;
            break;
        }
        // The kernel cannot tell an `=` in first place from none.
        if *byte == b'=' && at > 0 && equals.is_none() {
            equals = Some(at);
        }
        in_quotes ^= *byte == b'"';
    }
    let (mut word, rest) = (&body[..end], &body[end..]);
    let value_quoted = equals.is_some_and(|at| word.get(at + 1) == Some(&b'"'));
    if (whole_quoted || value_quoted) && word.last() == Some(&b'"') {
        word = &word[..word.len() - 1];
    }
    let spaces = rest.iter().take_while(|byte| is_kernel_space(**byte)).count();
    // The closing quote of `"word="` passes for an opening one of its value, which then is empty all the same.
    let value = equals.map(|at| word.get(at + 1 + usize::from(value_quoted)..).unwrap_or_default().to_vec());
    (word[..equals.unwrap_or(word.len())].to_vec(), value, &rest[spaces..])
}

fn kernel_reads(line: &str) -> Parsed {
    let mut parsed = Parsed::default();
    let mut rest = line.trim_start_matches(' ').as_bytes();
    let mut after_dashes = false;
    while !rest.is_empty() {
        let (name, value, next) = next_word(rest);
        rest = next;
        if value.is_none() && name == b"--" {
            if after_dashes {
                break;
            }
            after_dashes = true;
        } else if after_dashes {
            let assigned = value.map(|value| [b"=", &*value].concat()).unwrap_or_default();
            parsed.init_args.push([name, assigned].concat());
        } else {
            parsed.params.push((name, value));
        }
    }
    parsed
}

#[test]
fn the_model_reads_what_kernels_are_known_to_read() {
    let parsed = kernel_reads(r#"quiet a=b c="d e" "f=g h" i= -- "x y" "" z=1 -- lost"#);
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let params: Vec<_> = parsed.params.iter().map(|(n, v)| (text(n), v.as_deref().map(text))).collect();
    let expected = [("quiet", None), ("a", Some("b")), ("c", Some("d e")), ("f", Some("g h")), ("i", Some(""))];
    assert_eq!(params, expected.map(|(n, v)| (n.to_owned(), v.map(str::to_owned))));
    assert_eq!(parsed.init_args, [&b"x y"[..], b"", b"z=1"]);
}

#[test]
fn nothing_can_be_smuggled_in() {
    let mut cmdline = Cmdline::new();
    for (key, value) in [
        ("a b", ""),
        ("", "x"),
        ("--", "x"),
        ("k=", "x"),
        ("k\"", "x"),
        ("k\u{a0}", "x"),
        ("k", "\" init=/bin/sh \""),
        ("k", "a\nb"),
        ("k", "a\0b"),
        ("k", "a\tb"),
        ("k", "\u{7f}"),
    ] {
        let error = cmdline.param(key, value).unwrap_err();
        assert!(matches!(error, Error::CmdlineWord { .. }), "{key:?} {value:?}: {error}");
        cmdline.env(key, value).unwrap_err();
    }
    cmdline.word("").unwrap_err();
    cmdline.word("a=b").unwrap_err();
    cmdline.word("é").unwrap_err();
    cmdline.env("a.b", "c").unwrap_err();
    cmdline.init_arg("--").unwrap_err();
    cmdline.init_arg("a\"b").unwrap_err();
    assert!(cmdline.is_empty());
}

#[test]
fn an_error_names_the_word_and_the_byte() {
    let error = Cmdline::new().env("MOTD", "one\ntwo").unwrap_err().to_string();
    assert!(error.contains(r"MOTD=one\ntwo") && error.contains("0x0a"), "{error}");
}

#[test]
fn latin_1_space_inside_utf_8_is_quoted() {
    // U+00E0 is C3 A0, and the kernel takes A0 for a space.
    let mut cmdline = Cmdline::new();
    cmdline.env("WORD", "déjà").unwrap();
    assert_eq!(cmdline.to_string(), "WORD=\"déjà\"");
    cmdline.raw("x=à").unwrap_err();
    cmdline.raw("x=\"à\"").unwrap();
}

#[test]
fn the_last_byte_fits_and_the_next_does_not() {
    let mut cmdline = Cmdline::new();
    cmdline.param("k", &"v".repeat(MAX_CMDLINE - 2)).unwrap();
    assert_eq!((cmdline.len(), cmdline.to_string().len()), (MAX_CMDLINE, MAX_CMDLINE));
    let full = cmdline.clone();
    let error = cmdline.word("x").unwrap_err();
    assert!(matches!(error, Error::CmdlineTooLong { len, max: MAX_CMDLINE } if len == MAX_CMDLINE + 2), "{error}");
    cmdline.init_arg("x").unwrap_err();
    assert_eq!(cmdline, full, "a refused word leaves nothing behind");

    let mut cmdline = Cmdline::new();
    cmdline.init_arg(&"v".repeat(MAX_CMDLINE - 3)).unwrap();
    assert_eq!(cmdline.to_string().len(), MAX_CMDLINE);
    cmdline.word("x").unwrap_err();
}

#[test]
fn the_kernel_panics_on_one_more() {
    let mut cmdline = Cmdline::new();
    for n in 0..MAX_INIT_ENV {
        cmdline.env(&format!("E{n}"), "").unwrap();
    }
    assert!(matches!(cmdline.env("LAST", ""), Err(Error::CmdlineTooMany { max: MAX_INIT_ENV, .. })));
    for n in 0..MAX_INIT_ARGS {
        cmdline.init_arg(&n.to_string()).unwrap();
    }
    assert!(matches!(cmdline.init_arg("x"), Err(Error::CmdlineTooMany { max: MAX_INIT_ARGS, .. })));
    assert!(matches!(cmdline.raw("-- x"), Err(Error::CmdlineTooMany { .. })));
    cmdline.param("still", "fine").unwrap();
}

#[test]
fn handwritten_lines_keep_their_order_around_the_dashes() {
    let mut cmdline = Cmdline::new();
    cmdline.raw("  root=/dev/vda  init=\"/my init\" -- -s \"a b\" ").unwrap();
    cmdline.word("quiet").unwrap();
    cmdline.raw("-- more").unwrap();
    assert_eq!(cmdline.to_string(), r#"root=/dev/vda init="/my init" quiet -- -s "a b" more"#);
    cmdline.raw("open=\"quote").unwrap_err();
    cmdline.raw("line\nbreak").unwrap_err();
    cmdline.raw("-- a -- b").unwrap_err();
    cmdline.raw("").unwrap();
}

fn key() -> impl Strategy<Value = String> {
    "[!#-<>-~]{1,12}".prop_filter("not the separator", |key| key != "--")
}

fn value() -> impl Strategy<Value = String> {
    prop_oneof!["[ !#-~]{0,16}", "[^\"\\p{Cc}]{0,12}"]
}

proptest! {
    #[test]
    fn the_kernel_reads_back_what_was_put_in(
        params in prop::collection::vec((key(), prop::option::of(value())), 0..8),
        args in prop::collection::vec(value(), 0..8),
    ) {
        let args: Vec<_> = args.into_iter().filter(|arg| arg != "--").collect();
        let mut cmdline = Cmdline::new();
        for (key, value) in &params {
            match value {
                Some(value) => cmdline.param(key, value).unwrap(),
                None => cmdline.word(key).unwrap(),
            };
        }
        for arg in &args {
            cmdline.init_arg(arg).unwrap();
        }
        let line = cmdline.to_string();
        prop_assert_eq!(line.len(), cmdline.len());
        let bytes = |text: &String| text.clone().into_bytes();
        let expected = Parsed {
            params: params.iter().map(|(key, value)| (bytes(key), value.as_ref().map(bytes))).collect(),
            init_args: args.iter().map(bytes).collect(),
        };
        prop_assert_eq!(kernel_reads(&line), expected);
    }

    #[test]
    fn any_text_is_read_back_or_refused(key in ".{0,6}", value in "[ -~\\t\\n\u{a0}]{0,10}", arg in ".{0,8}") {
        let mut cmdline = Cmdline::new();
        let (param, arg_taken) = (cmdline.param(&key, &value).is_ok(), cmdline.init_arg(&arg).is_ok());
        let parsed = kernel_reads(&cmdline.to_string());
        let expected = Parsed {
            params: param.then(|| (key.into_bytes(), Some(value.into_bytes()))).into_iter().collect(),
            init_args: arg_taken.then(|| arg.into_bytes()).into_iter().collect(),
        };
        prop_assert_eq!(parsed, expected);
    }

    #[test]
    fn handwritten_lines_mean_the_same_afterwards(line in "([a-z=\\-]{1,4}|\"[a-z =]{0,5}\"|--| ){0,10}") {
        let mut cmdline = Cmdline::new();
        if cmdline.raw(&line).is_ok() {
            prop_assert_eq!(kernel_reads(&cmdline.to_string()), kernel_reads(&line));
        }
    }
}
