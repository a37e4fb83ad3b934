//! `member`: who belongs to the cluster.

use futures_util::{FutureExt, future::LocalBoxFuture};

use crate::{
    cli::{
        Command, Exit, Failure, Flag, Format, Group, Invocation,
        go::{self, quote},
        output,
    },
    ctl::{
        client::{MEMBER_ADD, MEMBER_LIST, MEMBER_PROMOTE, MEMBER_REMOVE, MEMBER_UPDATE},
        printer::Shown,
        settings::is_serializable,
    },
    pb::etcdserverpb::{
        MemberAddRequest, MemberAddResponse, MemberListRequest, MemberPromoteRequest, MemberRemoveRequest,
        MemberUpdateRequest,
    },
};

pub(in crate::ctl) const MEMBER: Command = Command::new("member", "<subcommand>", "Commands about members")
    .of(Group::Maintenance)
    .below(&[
        Command::new("add", "<memberName> [options]", "Adds a member to the cluster")
            .flags(&[
                Flag::text("peer-urls", "the URLs at which the other members reach it, separated by commas"),
                Flag::switch("learner", "without a vote"),
            ])
            .runs(add),
        Command::new("list", "", "Lists all members")
            .long(
                "Lists all members.\n\nThe format \"simple\" has a line for each member: ID, status, name, peer URLs, client URLs, \
                 and whether it is a learner.\n",
            )
            .flags(&[
                Flag::text("consistency", "l: as new as the last change (linearizable); s: what the member has (serializable)")
                    .or("l")
                    .one_of(&["l", "s"]),
            ])
            .runs(list),
        Command::new("promote", "<memberID>", "Gives a learner a vote").runs(promote),
        Command::new("remove", "<memberID>", "Removes a member from the cluster").runs(remove),
        Command::new("update", "<memberID> [options]", "Changes the URLs of a member")
            .flags(&[Flag::text("peer-urls", "its new peer URLs, separated by commas")])
            .runs(update),
    ]);

fn add<'a>(call: &'a Invocation<'a>) -> LocalBoxFuture<'a, Result<(), Failure>> {
    async move {
        let name = match call.args.len() {
            0 => return Err(Failure::bad_args("member name not provided")),
            1 => call.text(0),
            len => {
                let words = (0..len).map(|at| call.text(at));
                let urls = words.filter(|word| word.to_lowercase().starts_with("http"));
                let hints = urls.map(|url| format!(", did you mean --peer-urls={url}"));
                return Err(Failure::bad_args(format!("too many arguments{}", hints.collect::<String>())));
            }
        };
        let (text, urls) = peer_urls(call)?;
        let (session, client) = call.connect().await?;
        check_urls(&urls)?;
        let request = MemberAddRequest { peer_ur_ls: urls, is_learner: call.values.switch("learner") };
        let answer = client.call(&MEMBER_ADD, &request, session.deadline()).await?;
        session.print(&Shown::MemberAdd(&answer))?;
        if session.format == Format::Simple {
            output::line(format_args!("{}", start_settings(&name, &text, &answer)))?;
        }
        Ok(())
    }
    .boxed_local()
}

/// The variables to start the new member with.
fn start_settings(name: &str, peer_urls: &str, answer: &MemberAddResponse) -> String {
    let added = answer.member.as_ref().map_or(0, |member| member.id);
    let of_member = answer.members.iter().flat_map(|member| {
        let name = if member.id == added { name } else { &member.name };
        member.peer_ur_ls.iter().map(move |url| format!("{name}={url}"))
    });
    let cluster = of_member.collect::<Vec<_>>().join(",");
    let [name, cluster, peer_urls] = [name, &cluster, peer_urls].map(|text| quote(text.as_bytes()));
    format!(
        "\nETCD_NAME={name}\nETCD_INITIAL_CLUSTER={cluster}\nETCD_INITIAL_ADVERTISE_PEER_URLS={peer_urls}\n\
         ETCD_INITIAL_CLUSTER_STATE=\"existing\""
    )
}

fn remove<'a>(call: &'a Invocation<'a>) -> LocalBoxFuture<'a, Result<(), Failure>> {
    async move {
        let id = member_id(call)?;
        let (session, client) = call.connect().await?;
        let answer = client.call(&MEMBER_REMOVE, &MemberRemoveRequest { id }, session.deadline()).await?;
        session.print(&Shown::MemberRemove(id, &answer))
    }
    .boxed_local()
}

fn update<'a>(call: &'a Invocation<'a>) -> LocalBoxFuture<'a, Result<(), Failure>> {
    async move {
        let id = member_id(call)?;
        let (_, urls) = peer_urls(call)?;
        let (session, client) = call.connect().await?;
        check_urls(&urls)?;
        let request = MemberUpdateRequest { id, peer_ur_ls: urls };
        let answer = client.call(&MEMBER_UPDATE, &request, session.deadline()).await?;
        session.print(&Shown::MemberUpdate(id, &answer))
    }
    .boxed_local()
}

fn promote<'a>(call: &'a Invocation<'a>) -> LocalBoxFuture<'a, Result<(), Failure>> {
    async move {
        let id = member_id(call)?;
        let (session, client) = call.connect().await?;
        let answer = client.call(&MEMBER_PROMOTE, &MemberPromoteRequest { id }, session.deadline()).await?;
        session.print(&Shown::MemberPromote(id, &answer))
    }
    .boxed_local()
}

fn list<'a>(call: &'a Invocation<'a>) -> LocalBoxFuture<'a, Result<(), Failure>> {
    async move {
        let linearizable = !is_serializable(call.values.text("consistency"))?;
        let (session, client) = call.connect().await?;
        let answer =
            client.call(&MEMBER_LIST, &MemberListRequest { linearizable }, session.deadline()).await?;
        session.print(&Shown::MemberList(&answer))
    }
    .boxed_local()
}

fn member_id(call: &Invocation<'_>) -> Result<u64, Failure> {
    if call.args.len() != 1 {
        return Err(Failure::bad_args("member ID is not provided"));
    }
    go::parse_uint(&call.text(0), 16)
        .map_err(|error| Failure::bad_args(format!("bad member ID arg ({error}), expecting ID in Hex")))
}

/// As they were written, and one by one.
fn peer_urls(call: &Invocation<'_>) -> Result<(String, Vec<String>), Failure> {
    let text = call.values.text("peer-urls");
    if text.is_empty() {
        return Err(Failure::bad_args("member peer urls not provided"));
    }
    Ok((text.to_owned(), text.split(',').map(str::to_owned).collect()))
}

/// What etcd's client does not send.
fn check_urls(urls: &[String]) -> Result<(), Failure> {
    for url in urls.iter().map(|url| url.trim()) {
        let fault = match url.split_once("://") {
            Some(("http" | "https" | "unix" | "unixs", rest)) => {
                let (authority, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
                let has_port = authority.rsplit_once(':').is_some_and(|(_, port)| !port.contains(']'));
                match () {
                    () if !has_port => "URL address does not have the form \"host:port\"",
                    () if !path.is_empty() => "URL must not contain a path",
                    () => continue,
                }
            }
            _ => "URL scheme must be http, https, unix, or unixs",
        };
        return Err(Exit::Error.because(format_args!("{fault}: {url}")));
    }
    Ok(())
}
