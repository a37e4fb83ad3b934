//! Compares retcd with etcd on this machine: the same loads, from the same client, on the same disk.
//!
//! ```text
//! row:  round 1: etcd, retcd, floor    round 2: etcd, retcd, floor    ...
//! ```
//!
//! A turn starts one server with an empty directory, measures it over loopback and stops it. Turns alternate, so
//! that a machine that becomes busier affects all servers, and the medians of the rounds are printed. Every answer is checked,
//! and so are the revision at the end, the number of what is stored and the order of events, so that lost writes are noticed.
//! A row that finds something wrong ends the run.
//!
//! The `floor` answers with constants and does nothing else, so what is beyond it is the server's own work. The ratios of one
//! run are more reliable than its figures, and the server's CPU time is more reliable than its throughput, because the client
//! uses the same cores, for the same time for each operation.
//!
//! `--seconds N` is how long each load takes (3), `--rounds N` how often each row is measured (3). `--only WORDS` measures the
//! rows whose names have these words, `--list` names all. `--doublings` measures others instead, with twice and four times as many
//! keys, watchers and connections, and `--large` those that take minutes and gigabytes. `--disk DIR` is where the servers have their directories (the
//! build directory), and `--plots DIR` where the plots go, of the rows that were measured. `--program PATH` measures
//! another retcd, `--both` measures etcd 3.5.1 beside 3.7, and `RETCD_REFERENCE=3.5` in its place.

#![allow(clippy::disallowed_methods, reason = "a load generator lives by the clock")]

mod client;
mod figures;
mod floor;
mod load;
mod plot;
mod report;
mod rows;
mod server;

use std::{
    error::Error,
    fs,
    io::{self, Write as _},
    path::PathBuf,
    time::Duration,
};

use tokio::runtime::{self, Runtime};

use self::{
    arguments::Arguments,
    report::Measured,
    rows::{Row, Turn},
    server::{Contender, Server},
};

#[path = "../bench_arguments.rs"]
mod arguments;
#[path = "../../tests/support/pb.rs"]
mod pb;
#[path = "../../tests/support/tools.rs"]
mod tools;

type Failure = Box<dyn Error + Send + Sync>;

fn main() -> Result<(), Failure> {
    let Some(arguments) = Arguments::of_bench() else { return Ok(()) };
    let has = |name: &str| arguments.0.iter().any(|argument| argument == name);
    if has("--floor") {
        return floor::serve();
    }
    let only = arguments.value("--only").unwrap_or_default();
    let mut rows = match (has("--doublings"), has("--large")) {
        (false, false) => rows::all(),
        (true, false) => rows::doublings(),
        (false, true) => rows::large(),
        (true, true) => return Err("--doublings and --large are runs of their own".into()),
    };
    rows.retain(|row| row.name().contains(only));
    let mut out = io::stdout();
    if has("--list") {
        for row in &rows {
            writeln!(out, "{}", row.name())?;
        }
        return Ok(());
    }
    let length = Duration::from_secs(arguments.number("--seconds", 3)? as u64);
    let rounds = arguments.number("--rounds", 3)?;
    let disk = arguments.value("--disk").unwrap_or(env!("CARGO_TARGET_TMPDIR"));
    let contenders = match has("--alone") {
        true => vec![retcd(arguments.program()?)],
        false => contenders(&arguments, has("--both"))?,
    };
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    let mut measured = Vec::new();
    for row in &rows {
        let row = &**row;
        measured.push(measure(row, &contenders, &runtime, (rounds, length), &PathBuf::from(disk))?);
    }
    let names: Vec<&str> = contenders.iter().map(Contender::name).collect();
    out.write_all(report::table(&names, &measured).as_bytes())?;
    if let Some(folder) = arguments.value("--plots") {
        fs::create_dir_all(folder)?;
        for (name, svg) in plot::all(&names, &rows, &measured) {
            let file = PathBuf::from(folder).join(name);
            fs::write(&file, svg)?;
            writeln!(io::stderr(), "{}", file.display())?;
        }
    }
    Ok(())
}

fn retcd(program: Option<PathBuf>) -> Contender {
    let program = program.unwrap_or_else(|| env!("CARGO_BIN_EXE_retcd").into());
    Contender::Member { name: "retcd".to_owned(), program }
}

/// etcd comes first: the others are compared with it. Beside etcd 3.7 there may be etcd 3.5.1 too, and beside retcd
/// another retcd.
fn contenders(arguments: &Arguments, with_both: bool) -> Result<Vec<Contender>, Failure> {
    let etcd = tools::brought_reference()?;
    let (major, minor, patch) = etcd.version;
    let mut contenders = vec![
        Contender::Member { name: format!("etcd {major}.{minor}.{patch}"), program: etcd.etcd.clone() },
        retcd(arguments.program()?),
    ];
    if with_both && etcd.has((3, 7, 0)) {
        let program = tools::Release::V35.etcd();
        contenders.push(Contender::Member { name: "etcd 3.5.1".to_owned(), program });
    }
    if let Some(program) = arguments.value("--beside") {
        contenders.push(Contender::Member { name: program.to_owned(), program: program.into() });
    }
    contenders.push(Contender::Floor);
    Ok(contenders)
}

fn measure(
    row: &dyn Row,
    contenders: &[Contender],
    runtime: &Runtime,
    (rounds, length): (usize, Duration),
    disk: &std::path::Path,
) -> Result<Measured, Failure> {
    let mut measured = Measured::new(row.name(), contenders.len());
    for round in 1..=rounds {
        for (place, contender) in contenders.iter().enumerate() {
            if matches!(contender, Contender::Floor) && !row.has_floor() {
                continue;
            }
            writeln!(io::stderr(), "{}: round {round} of {rounds}: {}", measured.row, contender.name())?;
            let server = Server::start(contender, disk, row.members())?;
            let mut turn = Turn { server, runtime, length };
            let figures = row.measure(&mut turn);
            let figures =
                figures.map_err(|error| format!("{}, {}: {error}", measured.row, contender.name()))?;
            measured.add(place, figures);
            if contenders.len() == 1 {
                // A program that the compiler learns from (scripts/dist) writes down what it saw when it ends.
                turn.server.stop()?;
            }
        }
    }
    Ok(measured)
}
