//! A connection of HTTP/1.1 that can be used for many requests, and for answers that do not end.

use std::{
    fmt::Write as _,
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
};

use serde_json::Value;

use crate::server::{PATIENCE, Server};

pub(super) struct Wire(BufReader<TcpStream>);

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Answer {
    pub(super) status: u16,
    /// The names in lower case, in order.
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: String,
}

impl Wire {
    pub(super) fn to(server: &Server) -> Wire {
        let stream = TcpStream::connect(server.endpoint()).expect("the server accepts");
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
        stream.set_nodelay(true).expect("a socket");
        Wire(BufReader::new(stream))
    }

    /// Sends a form, if there is one.
    pub(super) fn ask(&mut self, method: &str, target: &str, form: Option<&str>) -> Answer {
        let headers = match form {
            Some(_) => vec![("Content-Type", "application/x-www-form-urlencoded".to_owned())],
            None => Vec::new(),
        };
        self.ask_with(method, target, &headers, form.unwrap_or_default())
    }

    pub(super) fn ask_with(
        &mut self,
        method: &str,
        target: &str,
        headers: &[(&str, String)],
        body: &str,
    ) -> Answer {
        self.send(method, target, headers, body);
        let mut answer = self.head();
        if method == "HEAD" || answer.status == 204 {
            return answer;
        }
        answer.body = match answer.header("content-length") {
            Some(length) => {
                let mut body = vec![0; length.parse().expect("a length")];
                self.0.read_exact(&mut body).expect("a body");
                String::from_utf8(body).expect("text")
            }
            None if answer.header("transfer-encoding") == Some("chunked") => {
                let mut body = String::new();
                while let Some(chunk) = self.chunk() {
                    body += &chunk;
                }
                body
            }
            None => String::new(),
        };
        answer
    }

    pub(super) fn send(&mut self, method: &str, target: &str, headers: &[(&str, String)], body: &str) {
        let mut request = format!("{method} {target} HTTP/1.1\r\nHost: localhost\r\n");
        for (name, value) in headers {
            let _ = write!(request, "{name}: {value}\r\n");
        }
        if !body.is_empty() || matches!(method, "PUT" | "POST") {
            let _ = write!(request, "Content-Length: {}\r\n", body.len());
        }
        request += "\r\n";
        // In two pieces, as many clients do it.
        let stream = self.0.get_mut();
        stream.write_all(request.as_bytes()).expect("the server reads");
        stream.write_all(body.as_bytes()).expect("the server reads");
    }

    /// Status and headers.
    pub(super) fn head(&mut self) -> Answer {
        let status = self.line();
        let status = status.split(' ').nth(1).and_then(|status| status.parse().ok());
        let mut headers = Vec::new();
        loop {
            let line = self.line();
            let Some((name, value)) = line.split_once(':') else { break };
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        headers.sort();
        Answer { status: status.expect("a status"), headers, body: String::new() }
    }

    /// The next chunk of a body that comes in chunks; `None` at its end.
    pub(super) fn chunk(&mut self) -> Option<String> {
        let length = usize::from_str_radix(&self.line(), 16).expect("a length");
        let mut chunk = vec![0; length];
        self.0.read_exact(&mut chunk).expect("a chunk");
        self.line();
        (length > 0).then(|| String::from_utf8(chunk).expect("text"))
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).expect("a line");
        line.trim_end().to_owned()
    }
}

impl Answer {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// What has to be equal between two servers: not the ids, the times, and the order of a listing that is
    /// not sorted.
    pub(super) fn normal(&self, is_sorted: bool) -> String {
        const COMPARED: [&str; 5] =
            ["allow", "content-type", "location", "x-content-type-options", "x-etcd-index"];
        const PRESENT: [&str; 3] = ["x-etcd-cluster-id", "x-raft-index", "x-raft-term"];
        let mut out = format!("{}\n", self.status);
        for (name, value) in &self.headers {
            if COMPARED.contains(&name.as_str()) {
                let _ = writeln!(out, "{name}: {value}");
            } else if PRESENT.contains(&name.as_str()) {
                let _ = writeln!(out, "{name}");
            }
        }
        out + &normal_body(&self.body, is_sorted)
    }
}

/// A body without times is compared as it is.
pub(super) fn normal_body(body: &str, is_sorted: bool) -> String {
    let has_times = body.contains("\"expiration\":");
    let has_children = body.contains("\"nodes\":") && !is_sorted;
    match serde_json::from_str::<Value>(body) {
        Ok(mut value) if has_times || has_children => {
            blank(&mut value, has_children);
            value.to_string()
        }
        _ => body.to_owned(),
    }
}

fn blank(value: &mut Value, sorts: bool) {
    match value {
        Value::Object(fields) => {
            for name in ["expiration", "ttl"] {
                if let Some(time) = fields.get_mut(name) {
                    *time = Value::Null;
                }
            }
            if let Some(Value::Array(nodes)) = fields.get_mut("nodes")
                && sorts
            {
                nodes.sort_by_key(|node| node["key"].to_string());
            }
            fields.values_mut().for_each(|value| blank(value, sorts));
        }
        Value::Array(values) => values.iter_mut().for_each(|value| blank(value, sorts)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}
