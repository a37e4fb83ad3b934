//! Users: in some worlds every call has to be of one, and what one of them may do changes all the time.
//!
//! Judge: what a user may do is what the last change says, on every member, as soon as that change was answered. "An
//! authorization decision is made when a request is applied, by the permissions of that time" (etcd's auth design: the
//! revision of users and roles travels with a request, and one that is old is refused).

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use tokio::time;
use tonic::{Code, Status};

use super::{
    clients::{Shared, within},
    dice::Dice,
    judges::{
        history::{Operation, Outcome, Request},
        wire,
    },
    logins::{DOUBT, Permitted, User},
    pb::{
        authpb::{Permission, permission},
        etcdserverpb::{
            AuthEnableRequest, AuthRoleAddRequest, AuthRoleDeleteRequest, AuthRoleGrantPermissionRequest,
            AuthRoleRevokePermissionRequest, AuthUserAddRequest, AuthUserDeleteRequest,
            AuthUserGrantRoleRequest, AuthUserRevokeRoleRequest, AuthenticateRequest,
            auth_client::AuthClient, kv_client::KvClient,
        },
    },
};

/// The keys that the guest asks for.
const GUARDED: &str = "guarded/";
const GUARDED_KEYS: u64 = 3;

/// Makes users and roles, and has every call need a user from then on.
pub(super) async fn enable(shared: Arc<Shared>) -> Result<(), Status> {
    let mut client = AuthClient::new(shared.wire(0));
    for user in User::ALL {
        let (name, password) = (user.name().to_owned(), user.name().to_owned());
        within(client.user_add(AuthUserAddRequest { name, password, ..Default::default() })).await?;
        within(client.role_add(AuthRoleAddRequest { name: user.name().to_owned() })).await?;
        let (user, role) = (user.name().to_owned(), user.name().to_owned());
        within(client.user_grant_role(AuthUserGrantRoleRequest { user, role })).await?;
    }
    let all_keys = (vec![0], vec![0]);
    within(client.role_grant_permission(grant(User::Load, all_keys))).await?;
    within(client.auth_enable(AuthEnableRequest {})).await?;
    Ok(())
}

fn grant(user: User, (key, range_end): (Vec<u8>, Vec<u8>)) -> AuthRoleGrantPermissionRequest {
    let perm_type = permission::Type::Readwrite.into();
    let perm = Permission { perm_type, key: key.into(), range_end: range_end.into() };
    AuthRoleGrantPermissionRequest { name: user.name().to_owned(), perm: Some(perm) }
}

/// Logs users in that have no token, again and again.
pub(super) async fn log_in(shared: Arc<Shared>) {
    let mut member = 0;
    loop {
        for user in User::ALL.into_iter().filter(|user| shared.tokens.of(*user).is_none()) {
            member = (member + 1) % shared.members;
            let request =
                AuthenticateRequest { name: user.name().to_owned(), password: user.name().to_owned() };
            let answer = within(AuthClient::new(shared.plain_wire(member)).authenticate(request)).await;
            let token = answer.ok().and_then(|answer| answer.into_inner().token.parse().ok());
            if let Some(token) = token {
                shared.tokens.keep(user, token);
                shared.logins.fetch_add(1, Relaxed);
            }
        }
        time::sleep(Duration::from_millis(20)).await;
    }
}

/// Changes what the guest may do, and other users and roles.
pub(super) struct Operator {
    dice: Dice,
    shared: Arc<Shared>,
    /// A change without an answer may still come, so until then nobody knows what the guest may do.
    doubtful_until: Duration,
}

impl Operator {
    pub(super) fn new(dice: Dice, shared: Arc<Shared>) -> Operator {
        Operator { dice, shared, doubtful_until: Duration::ZERO }
    }

    pub(super) async fn run(mut self) {
        while !self.shared.is_over() {
            time::sleep(self.dice.between(Duration::from_millis(20), Duration::from_millis(700))).await;
            let member = self.dice.below(self.shared.members as u64) as usize;
            match self.dice.below(4) {
                0 | 1 => self.change_permission(member, self.dice.flip()).await,
                2 => self.change_role(member, self.dice.flip()).await,
                _ => self.change_others(member).await,
            }
        }
    }

    /// The guest's role gets the permission, or loses it. In both cases the guest keeps its role.
    async fn change_permission(&mut self, member: usize, is_granted: bool) {
        let guarded = (wire::start_of(GUARDED), wire::end_of(GUARDED));
        let mut client = AuthClient::new(self.shared.admin_wire(member));
        self.change(|| async move {
            // The role may be gone, and the guest may not have it any more.
            let name = User::Guest.name().to_owned();
            or_already(within(client.role_add(AuthRoleAddRequest { name })).await)?;
            let (user, role) = (User::Guest.name().to_owned(), User::Guest.name().to_owned());
            within(client.user_grant_role(AuthUserGrantRoleRequest { user, role })).await?;
            if is_granted {
                within(client.role_grant_permission(grant(User::Guest, guarded))).await?;
            } else {
                let role = User::Guest.name().to_owned();
                let (key, range_end) = (guarded.0.into(), guarded.1.into());
                let request = AuthRoleRevokePermissionRequest { role, key, range_end };
                or_already(within(client.role_revoke_permission(request)).await)?;
            }
            Ok(is_granted)
        })
        .await;
    }

    /// The guest loses its role, or the role is deleted.
    async fn change_role(&mut self, member: usize, is_deleted: bool) {
        let mut client = AuthClient::new(self.shared.admin_wire(member));
        self.change(|| async move {
            let role = User::Guest.name().to_owned();
            if is_deleted {
                or_already(within(client.role_delete(AuthRoleDeleteRequest { role })).await)?;
            } else {
                let name = User::Guest.name().to_owned();
                or_already(within(client.user_revoke_role(AuthUserRevokeRoleRequest { name, role })).await)?;
            }
            Ok(false)
        })
        .await;
    }

    async fn change<F: Future<Output = Result<bool, Status>>>(&mut self, change: impl FnOnce() -> F) {
        self.shared.permitted_is(None);
        match change().await {
            Ok(is_granted) => {
                self.shared.user_changes.fetch_add(1, Relaxed);
                if self.shared.now() >= self.doubtful_until {
                    self.shared.permitted_is(Some(is_granted));
                }
            }
            Err(status) if wire::is_refusal(&status) => {}
            Err(_) => self.doubtful_until = self.shared.now() + DOUBT,
        }
    }

    /// A user that nobody is comes or goes; every other call is then of an older revision of the users.
    async fn change_others(&self, member: usize) {
        let mut client = AuthClient::new(self.shared.admin_wire(member));
        let name = format!("user{}", self.dice.below(3));
        let changed = if self.dice.flip() {
            let password = "secret".to_owned();
            within(client.user_add(AuthUserAddRequest { name, password, ..Default::default() }))
                .await
                .map(drop)
        } else {
            within(client.user_delete(AuthUserDeleteRequest { name })).await.map(drop)
        };
        if changed.is_ok() {
            self.shared.user_changes.fetch_add(1, Relaxed);
        }
    }
}

/// The store may have been as the change wants it.
fn or_already<T>(changed: Result<T, Status>) -> Result<(), Status> {
    const ALREADY: [&str; 4] = [
        "etcdserver: role name not found",
        "etcdserver: role name already exists",
        "etcdserver: permission is not granted to the role",
        "etcdserver: role is not granted to the user",
    ];
    match changed {
        Err(status) if !ALREADY.contains(&status.message()) => Err(status),
        _ => Ok(()),
    }
}

/// Writes and reads keys that it may use at some times and at others not.
pub(super) struct Guest {
    pub(super) number: usize,
    pub(super) dice: Dice,
    pub(super) shared: Arc<Shared>,
}

impl Guest {
    pub(super) async fn run(self) {
        while !self.shared.is_over() {
            time::sleep(self.dice.between(Duration::from_millis(10), Duration::from_millis(200))).await;
            self.ask().await;
        }
    }

    async fn ask(&self) {
        let key = format!("{GUARDED}{}", self.dice.below(GUARDED_KEYS));
        let request = match self.dice.below(4) {
            0 => Request::Put { key, value: self.shared.new_value() },
            _ => Request::Get { key, serializable: false },
        };
        let member = self.dice.below(self.shared.members as u64) as usize;
        let before = self.shared.permitted();
        let mut client = KvClient::new(self.shared.wire_of(member, User::Guest));
        let is_write = !request.writes().is_empty();
        let called = self.shared.now();
        let asked = within(wire::ask(&mut client, &request)).await;
        let mut returned = Some(self.shared.now());
        if before == self.shared.permitted() {
            self.judge(member, &request, before, asked.as_ref().err());
        }
        let outcome = match asked {
            Ok((_, answer)) => Outcome::Ok(answer),
            Err(status) if !is_write || wire::is_refusal(&status) => Outcome::Refused,
            Err(_) => {
                returned = None;
                Outcome::Unknown
            }
        };
        self.shared.record(Operation { client: self.number, member, called, returned, request, outcome });
    }

    /// The permission was known and did not change while the call was under way.
    fn judge(&self, member: usize, request: &Request, permitted: Permitted, error: Option<&Status>) {
        let is_denied = match error {
            None => false,
            Some(status) if status.code() == Code::PermissionDenied => true,
            Some(_) => return,
        };
        let Some(is_granted) = permitted.is_granted else { return };
        self.shared.permissions_judged.fetch_add(1, Relaxed);
        if is_granted == is_denied {
            let (may, was) =
                if is_granted { ("may", "was not permitted to") } else { ("may not", "was permitted to") };
            let now = self.shared.now();
            self.shared.violated(
                "permissions",
                format!("the guest {may}, and {was} {request} on m{member} before {now:?}"),
            );
        }
    }
}

impl Shared {
    fn permitted(&self) -> Permitted {
        *self.permitted.lock()
    }

    fn permitted_is(&self, is_granted: Option<bool>) {
        let mut permitted = self.permitted.lock();
        *permitted = Permitted { change: permitted.change + 1, is_granted };
    }
}
