//! Asking at the terminal for the account, when it stands nowhere.
//!
//! While a password is typed the terminal shows nothing, and hands over Ctrl-C as a character like any other: a program
//! that died of the signal would leave the shell without echo. The terminal is put back first, then the signal raised.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, IsTerminal, Read, Write},
};

use rustix::{
    process::{Signal, getpid, kill_process},
    termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr},
};

use crate::{
    exit::{ExitCode, Failure},
    settings::{Asked, BareJid, Missing, Password},
};

/// How often something is asked for that makes no sense.
const TRIES: usize = 3;
/// The longest line that is taken, bytes; a terminal hands over no longer ones.
const LINE_LEN_MAX: u64 = 4_096;

const CTRL_C: u8 = 0x03;
const CTRL_D: u8 = 0x04;
const CTRL_H: u8 = 0x08;
const CTRL_U: u8 = 0x15;
const DELETE: u8 = 0x7f;

/// Asks for what is missing; nothing if nobody sits at a terminal.
pub(crate) fn ask(missing: &Missing) -> Result<Asked, Failure> {
    let Some(mut terminal) = Terminal::open() else { return Ok(Asked::default()) };
    let jid = match &missing.jid {
        Some(jid) => jid.clone(),
        None => tried(|| {
            let line = terminal.line("XMPP account (NAME@DOMAIN): ")?;
            line.parse::<BareJid>().map_err(Answer::Wrong)
        })?,
    };
    let password = missing.password.then(|| {
        let question = format!("Password of {jid}: ");
        tried(|| terminal.hidden_line(&question)?.parse::<Password>().map_err(Answer::Wrong))
    });
    Ok(Asked { password: password.transpose()?, jid: Some(jid) })
}

/// An answer, or why there is none to come.
enum Answer {
    /// It makes no sense, for this reason.
    Wrong(String),
    Failed(io::Error),
}

impl From<io::Error> for Answer {
    fn from(error: io::Error) -> Self {
        Self::Failed(error)
    }
}

fn tried<T>(mut ask: impl FnMut() -> Result<T, Answer>) -> Result<T, Failure> {
    let mut last = String::new();
    for _ in 0..TRIES {
        match ask() {
            Ok(answer) => return Ok(answer),
            Err(Answer::Failed(error)) => {
                return Err(Failure::io("cannot ask for the account", error));
            }
            Err(Answer::Wrong(why)) => {
                // The next question follows whether this is seen or not.
                let _ = writeln!(io::stderr(), "{why}");
                last = why;
            }
        }
    }
    Err(Failure::new(ExitCode::Usage, anyhow::anyhow!("{last}")))
}

/// The terminal that somebody sits at.
struct Terminal(BufReader<File>);

impl Terminal {
    /// None for a service, a script, a pipe.
    fn open() -> Option<Self> {
        if !io::stdin().is_terminal() {
            return None;
        }
        let file = File::options().read(true).write(true).open("/dev/tty").ok()?;
        Some(Self(BufReader::new(file)))
    }

    /// A line that is seen as it is typed.
    fn line(&mut self, question: &str) -> io::Result<String> {
        self.say(question)?;
        let mut line = String::new();
        (&mut self.0).take(LINE_LEN_MAX).read_line(&mut line)?;
        if line.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(line.trim().to_owned())
    }

    /// A line that is not.
    fn hidden_line(&mut self, question: &str) -> io::Result<String> {
        self.say(question)?;
        let hidden = Hidden::begin(self.0.get_ref().try_clone()?)?;
        let end = read_hidden(&mut self.0);
        drop(hidden);
        self.say("\n")?;
        match end? {
            End::Line(line) => Ok(line),
            End::Interrupted => {
                kill_process(getpid(), Signal::INT)?;
                // Whoever ignores the signal wants no password either.
                Err(io::ErrorKind::Interrupted.into())
            }
        }
    }

    fn say(&mut self, text: &str) -> io::Result<()> {
        let mut file = self.0.get_ref();
        file.write_all(text.as_bytes())?;
        file.flush()
    }
}

/// How a hidden line ended.
#[derive(Debug, PartialEq, Eq)]
enum End {
    Line(String),
    Interrupted,
}

/// The line editing that the terminal does not do meanwhile: erase a character, erase all.
fn read_hidden(input: &mut impl Read) -> io::Result<End> {
    let mut line = Vec::new();
    loop {
        let mut byte = [0];
        if input.read(&mut byte)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        match byte[0] {
            b'\r' | b'\n' => break,
            CTRL_C => return Ok(End::Interrupted),
            CTRL_D if line.is_empty() => return Err(io::ErrorKind::UnexpectedEof.into()),
            CTRL_H | DELETE => {
                // To the first byte of the last character.
                while line.pop().is_some_and(|byte| byte & 0xc0 == 0x80) {}
            }
            CTRL_U => line.clear(),
            byte if byte < b' ' => {}
            _ if line.len() as u64 >= LINE_LEN_MAX => return Err(io::ErrorKind::InvalidData.into()),
            byte => line.push(byte),
        }
    }
    String::from_utf8(line).map(End::Line).map_err(|_| io::ErrorKind::InvalidData.into())
}

/// A terminal that shows nothing and makes no signals, as long as this lives.
struct Hidden {
    terminal: File,
    before: Termios,
}

impl Hidden {
    fn begin(terminal: File) -> io::Result<Self> {
        let before = tcgetattr(&terminal)?;
        let mut hidden = before.clone();
        hidden.local_modes -= LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG;
        // What was typed ahead is kept.
        tcsetattr(&terminal, OptionalActions::Drain, &hidden)?;
        Ok(Self { terminal, before })
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        // A terminal that is gone needs no restoring.
        let _ = tcsetattr(&self.terminal, OptionalActions::Drain, &self.before);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(bytes: &[u8]) -> Result<End, io::ErrorKind> {
        read_hidden(&mut &*bytes).map_err(|error| error.kind())
    }

    #[test]
    fn hidden_lines_are_edited_as_visible_ones() {
        for (bytes, line) in [
            (&b"pass word\r"[..], "pass word"),
            (b"passs\x7f1\x08\x08x\nnext", "pasx"),
            ("für\u{7f}\u{7f}o\n".as_bytes(), "fo"),
            (b"\x7f\x7fwrong\x15\x1bright\n", "right"),
            (b"\n", ""),
        ] {
            assert_eq!(typed(bytes), Ok(End::Line(line.into())));
        }
        assert_eq!(typed(b"abc\x03"), Ok(End::Interrupted));
        assert_eq!(typed(b"\x04"), Err(io::ErrorKind::UnexpectedEof));
        assert_eq!(typed(b"abc"), Err(io::ErrorKind::UnexpectedEof));
        assert_eq!(typed(b"\xff\n"), Err(io::ErrorKind::InvalidData));
        assert_eq!(typed(&[b'x'; 5_000]), Err(io::ErrorKind::InvalidData));
    }
}
