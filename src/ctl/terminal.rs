//! What is asked of a person: passwords, which a terminal does not show.

use std::io::{self, IsTerminal, Read, Write};

use rustix::termios::{self, LocalModes, OptionalActions, Termios};

/// Asks for a password on stdout and reads a line from stdin, which may be a pipe. A terminal does not show what is
/// typed. The error is of the kind `Interrupted` if Ctrl-C was typed.
pub(super) fn ask_password(prompt: &str) -> io::Result<String> {
    let mut stdout = io::stdout();
    stdout.write_all(prompt.as_bytes())?;
    stdout.flush()?;
    let line = match Silent::begin()? {
        Some(silent) => {
            let line = read_typed(&mut io::stdin().lock());
            drop(silent);
            line
        }
        None => read_line(&mut io::stdin().lock()),
    };
    // The newline that ended the password was not shown.
    stdout.write_all(b"\n")?;
    let line = String::from_utf8(line?).map_err(|_| io::Error::other("the password is not text in UTF-8"))?;
    Ok(line.trim().to_owned())
}

/// Byte by byte: what follows the line belongs to whoever reads next.
fn read_line(from: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut line = Vec::new();
    let mut byte = [0];
    while from.read(&mut byte)? == 1 && byte[0] != b'\n' {
        line.push(byte[0]);
    }
    Ok(line)
}

/// Reads from a terminal that hands on each key: the keys that a terminal handles itself are handled here.
fn read_typed(from: &mut impl Read) -> io::Result<Vec<u8>> {
    const INTERRUPT: u8 = 3;
    const END: u8 = 4;
    const BACKSPACE: u8 = 8;
    const KILL_LINE: u8 = 21;
    const DELETE: u8 = 127;
    let mut line = Vec::new();
    let mut byte = [0];
    while from.read(&mut byte)? == 1 {
        match byte[0] {
            b'\n' | b'\r' | END => break,
            INTERRUPT => return Err(io::ErrorKind::Interrupted.into()),
            KILL_LINE => line.clear(),
            // A letter may be several bytes; all but the first of them have these two bits.
            BACKSPACE | DELETE => while line.pop().is_some_and(|byte| byte & 0xc0 == 0x80) {},
            key => line.push(key),
        }
    }
    Ok(line)
}

/// While it lives, the terminal shows nothing of what is typed, and sends no signals: a signal would end the
/// process before the terminal is as it was.
struct Silent(Termios);

impl Silent {
    /// `None`: stdin is no terminal.
    fn begin() -> io::Result<Option<Silent>> {
        let stdin = io::stdin();
        if !stdin.is_terminal() {
            return Ok(None);
        }
        let usual = termios::tcgetattr(&stdin)?;
        let mut silent = usual.clone();
        silent.local_modes.remove(LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG);
        termios::tcsetattr(&stdin, OptionalActions::Now, &silent)?;
        Ok(Some(Silent(usual)))
    }
}

impl Drop for Silent {
    fn drop(&mut self) {
        // A terminal that has gone meanwhile shows nothing.
        let _ = termios::tcsetattr(io::stdin(), OptionalActions::Now, &self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_that_correct_a_password_are_no_part_of_it() {
        let typed = |keys: &[u8]| read_typed(&mut &keys[..]);
        assert_eq!(typed(b"secret\rmore").unwrap(), b"secret");
        assert_eq!(typed(b"sa\x7fecrey\x08t\n").unwrap(), b"secret");
        assert_eq!(typed("a\u{e9}\x7f\n".as_bytes()).unwrap(), b"a");
        assert_eq!(typed(b"\x7f\x7fnew\x15old\n").unwrap(), b"old");
        assert_eq!(typed(b"half\x03").unwrap_err().kind(), io::ErrorKind::Interrupted);
    }

    #[test]
    fn a_line_of_a_pipe_is_taken_and_no_more() {
        let mut pipe = &b"one\ntwo"[..];
        assert_eq!(read_line(&mut pipe).unwrap(), b"one");
        assert_eq!(pipe, b"two");
    }
}
