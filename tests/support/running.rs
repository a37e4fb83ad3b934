//! A tool that runs until it is stopped, and whose output is read line by line.

// No test program uses all of this file.
#![allow(dead_code)]

use std::{
    io::{BufRead, BufReader, Read, Write},
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use rustix::process::{Pid, Signal};

/// How long a line may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// The process ends when the value is dropped.
pub(crate) struct Running {
    child: Child,
    lines: mpsc::Receiver<String>,
}

impl Running {
    pub(crate) fn start(mut command: Command, stdin: &str) -> Running {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the tool starts");
        let mut input = child.stdin.take().expect("it is piped");
        input.write_all(stdin.as_bytes()).expect("the tool reads");
        let stdout = child.stdout.take().expect("it is piped");
        let mut stderr = child.stderr.take().expect("it is piped");
        let (found, lines) = mpsc::channel();
        thread::spawn(move || {
            // An interactive watch ends when its input ends, so the input stays open.
            let _input = input;
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                found.send(line).ok();
            }
            let mut rest = String::new();
            stderr.read_to_string(&mut rest).ok();
            found.send(format!("standard error: {rest}")).ok();
        });
        Running { child, lines }
    }

    pub(crate) fn line(&self) -> String {
        self.lines.recv_timeout(PATIENCE).expect("a line comes")
    }

    pub(crate) fn lines(&self, count: usize) -> Vec<String> {
        let line = |number| match self.lines.recv_timeout(PATIENCE) {
            Ok(line) => line,
            Err(_) => panic!("line {number} of {count} did not come"),
        };
        (1..=count).map(line).collect()
    }

    pub(crate) fn is_silent(&self) -> bool {
        self.lines.try_recv().is_err()
    }

    /// Sends the signal of Ctrl-C.
    pub(crate) fn interrupt(&mut self) {
        let id = Pid::from_raw(self.child.id().cast_signed()).expect("a child's id is positive");
        rustix::process::kill_process(id, Signal::INT).expect("it runs");
        self.child.wait().expect("it ends");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
