//! The console of a cluster, in a real browser.

use std::{
    io::{BufRead, BufReader, Read},
    process::Stdio,
};

use crate::{browser, cluster::Cluster, tools::Release};

#[tokio::test]
async fn a_member_that_is_down_is_shown() {
    let mut cluster = Cluster::found(3);
    let endpoint = cluster.members[0].endpoint();
    let mut script = browser::script("members.mjs", &endpoint, &Release::V35.etcdctl());
    let mut running = script.stdout(Stdio::piped()).spawn().expect("the tests of the console need Node.js");
    let mut output = BufReader::new(running.stdout.take().expect("it is piped"));
    let mut said = String::new();
    while !said.ends_with("ready\n") {
        assert!(output.read_line(&mut said).expect("text") > 0, "the page did not show all members:\n{said}");
    }
    cluster.members[2].kill();
    output.read_to_string(&mut said).expect("text");
    let status = running.wait().expect("it was started");
    assert!(status.success(), "the console failed:\n{said}");
}
