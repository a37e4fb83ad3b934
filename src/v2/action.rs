//! What an event says was done.

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Create,
    Set,
    Update,
    Delete,
    CompareAndSwap,
    CompareAndDelete,
    Expire,
}

impl Action {
    pub(super) const ALL: [Action; 7] = [
        Action::Create,
        Action::Set,
        Action::Update,
        Action::Delete,
        Action::CompareAndSwap,
        Action::CompareAndDelete,
        Action::Expire,
    ];

    /// As etcd spells it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Action::Create => "create",
            Action::Set => "set",
            Action::Update => "update",
            Action::Delete => "delete",
            Action::CompareAndSwap => "compareAndSwap",
            Action::CompareAndDelete => "compareAndDelete",
            Action::Expire => "expire",
        }
    }

    /// Of the stored form.
    pub(super) fn number(self) -> u8 {
        match self {
            Action::Create => 0,
            Action::Set => 1,
            Action::Update => 2,
            Action::Delete => 3,
            Action::CompareAndSwap => 4,
            Action::CompareAndDelete => 5,
            Action::Expire => 6,
        }
    }

    pub(super) fn of_number(number: u8) -> Option<Action> {
        Action::ALL.into_iter().find(|action| action.number() == number)
    }
}
