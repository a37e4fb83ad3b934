//! Why a call to a peer failed, in words that an operator can act on.
//!
//! The reason names what a person can change, such as `connection refused`, and leaves out the layers
//! above the socket that the error came through.

use std::{error::Error, io};

use tonic::{Code, Status};

/// Why a call to a peer failed, for a person.
pub(super) fn reason(status: &Status) -> String {
    let mut cause: Option<&(dyn Error + 'static)> = status.source();
    let mut innermost = None;
    while let Some(error) = cause {
        innermost = error.downcast_ref::<io::Error>().or(innermost);
        cause = error.source();
    }
    match innermost {
        Some(error) => plain(error),
        None if status.code() == Code::Unimplemented => {
            "whoever answers there does not speak the protocol of this version of retcd between members"
                .to_owned()
        }
        None => status.message().to_owned(),
    }
}

/// The words of the system, without its numbers, as etcd has them.
fn plain(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error ").next().unwrap_or_default();
    match error.kind() {
        io::ErrorKind::TimedOut if error.raw_os_error().is_none() => "no connection in time".to_owned(),
        _ => {
            let mut letters = text.chars();
            letters.next().map_or(String::new(), |first| first.to_lowercase().chain(letters).collect())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_what_the_system_said() {
        let refused = io::Error::from_raw_os_error(111);
        assert_eq!(plain(&refused), "connection refused");
        assert_eq!(plain(&io::Error::from(io::ErrorKind::TimedOut)), "no connection in time");
        assert_eq!(
            plain(&io::Error::other("failed to lookup address information: Name or service not known")),
            "failed to lookup address information: Name or service not known"
        );
        assert_eq!(reason(&Status::failed_precondition("cluster ID mismatch")), "cluster ID mismatch");
        let wrapped = Status::from_error(Box::new(io::Error::from_raw_os_error(113)));
        assert_eq!(reason(&wrapped), "no route to host");
    }
}
