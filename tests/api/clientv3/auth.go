// All calls of clientv3's Auth interface, and what the client does by itself: logging in, and logging in again when its
// token has ended. Every line of the output must be the same for every server. The argument is the endpoint.
package main

import (
	"context"
	"fmt"
	"os"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

// The server is started with --auth-token-ttl=1.
const beyondTheTTL = 3 * time.Second

var endpoint = os.Args[1]

func dial(user, password string) (*clientv3.Client, error) {
	return clientv3.New(clientv3.Config{
		Endpoints:   []string{endpoint},
		DialTimeout: 10 * time.Second,
		Username:    user,
		Password:    password,
		Logger:      zap.NewNop(),
	})
}

func say(what string, answer any, err error) {
	if err != nil {
		fmt.Printf("%s: %v\n", what, err)
	} else {
		fmt.Printf("%s: %v\n", what, answer)
	}
}

func main() {
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	nobody, err := dial("", "")
	if err != nil {
		fmt.Println("no connection:", err)
		os.Exit(1)
	}
	prepare(ctx, nobody)

	root, err := dial("root", "rootpw")
	say("root logs in", "yes", err)
	ann, err := dial("ann", "secret")
	say("ann logs in", "yes", err)
	_, err = dial("ann", "wrong")
	say("ann with a wrong password", "logged in", err)
	_, err = dial("bob", "secret")
	say("an unknown user", "logged in", err)
	_, err = dial("cat", "")
	say("a user without a password", "logged in", err)

	keys(ctx, "nobody", nobody)
	keys(ctx, "ann", ann)
	keys(ctx, "root", root)
	status, err := ann.AuthStatus(ctx)
	say("AuthStatus by ann", fmt.Sprint(status.Enabled, status.AuthRevision), err)
	answer, err := nobody.Authenticate(ctx, "ann", "secret")
	say("Authenticate", answer != nil && len(answer.Token) > 0, err)

	time.Sleep(beyondTheTTL)
	keys(ctx, "ann after the token has ended", ann)
	watch := ann.Watch(ctx, "a")
	time.Sleep(beyondTheTTL)
	_, err = root.Put(ctx, "a", "seen")
	say("root after the token has ended", "put", err)
	event, open := <-watch
	say("ann's watch goes on", fmt.Sprint(open, len(event.Events)), event.Err())

	// The revision of users and roles rises, and the client asks for a new token.
	_, err = root.RoleAdd(ctx, "another")
	say("RoleAdd by root", "yes", err)
	keys(ctx, "ann at a new revision", ann)
	_, err = root.UserChangePassword(ctx, "ann", "new")
	say("UserChangePassword", "yes", err)
	keys(ctx, "ann with the old password", ann)
	ann.Close()
	ann, err = dial("ann", "new")
	say("ann with the new password", "logged in", err)
	_, err = root.RoleRevokePermission(ctx, "r", "a", "b")
	say("RoleRevokePermission", "yes", err)
	keys(ctx, "ann without the permission", ann)
	_, err = root.UserRevokeRole(ctx, "ann", "r")
	say("UserRevokeRole", "yes", err)
	_, err = root.UserRevokeRole(ctx, "ann", "r")
	say("UserRevokeRole again", "yes", err)
	_, err = root.RoleDelete(ctx, "r")
	say("RoleDelete", "yes", err)
	_, err = root.UserDelete(ctx, "ann")
	say("UserDelete", "yes", err)
	keys(ctx, "ann when she is deleted", ann)
	_, err = ann.AuthDisable(ctx)
	say("AuthDisable by ann", "yes", err)
	_, err = root.AuthDisable(ctx)
	say("AuthDisable", "yes", err)
	keys(ctx, "root without authentication", root)
}

// Users and roles before authentication is enabled, and that.
func prepare(ctx context.Context, client *clientv3.Client) {
	status, err := client.AuthStatus(ctx)
	say("AuthStatus", fmt.Sprint(status.Enabled, status.AuthRevision), err)
	_, err = client.AuthEnable(ctx)
	say("AuthEnable without root", "yes", err)
	_, err = client.Authenticate(ctx, "root", "rootpw")
	say("Authenticate too early", "yes", err)
	_, err = client.UserAdd(ctx, "root", "rootpw")
	say("UserAdd root", "yes", err)
	_, err = client.UserAdd(ctx, "ann", "secret")
	say("UserAdd ann", "yes", err)
	_, err = client.UserAdd(ctx, "ann", "secret")
	say("UserAdd again", "yes", err)
	_, err = client.UserAddWithOptions(ctx, "cat", "", &clientv3.UserAddOptions{NoPassword: true})
	say("UserAddWithOptions", "yes", err)
	_, err = client.RoleAdd(ctx, "r")
	say("RoleAdd", "yes", err)
	kind := clientv3.PermissionType(clientv3.PermReadWrite)
	_, err = client.RoleGrantPermission(ctx, "r", "a", "b", kind)
	say("RoleGrantPermission", "yes", err)
	_, err = client.RoleGrantPermission(ctx, "none", "a", "b", kind)
	say("RoleGrantPermission to no role", "yes", err)
	_, err = client.UserGrantRole(ctx, "ann", "r")
	say("UserGrantRole", "yes", err)
	_, err = client.UserGrantRole(ctx, "root", "root")
	say("UserGrantRole of root", "yes", err)
	role, err := client.RoleGet(ctx, "r")
	say("RoleGet", role.Perm, err)
	roles, err := client.RoleList(ctx)
	say("RoleList", roles.Roles, err)
	user, err := client.UserGet(ctx, "ann")
	say("UserGet", user.Roles, err)
	users, err := client.UserList(ctx)
	say("UserList", users.Users, err)
	_, err = client.AuthEnable(ctx)
	say("AuthEnable", "yes", err)
}

// What a client may do with the keys.
func keys(ctx context.Context, who string, client *clientv3.Client) {
	_, err := client.Put(ctx, "a", "1")
	say(who+" puts a", "yes", err)
	_, err = client.Put(ctx, "z", "1")
	say(who+" puts z", "yes", err)
	got, err := client.Get(ctx, "a")
	if err == nil {
		say(who+" gets a", len(got.Kvs), nil)
	} else {
		say(who+" gets a", "", err)
	}
	_, err = client.Txn(ctx).Then(clientv3.OpGet("a"), clientv3.OpPut("z", "2")).Commit()
	say(who+" puts z in a transaction", "yes", err)
	_, err = client.Grant(ctx, 100)
	say(who+" grants a lease", "yes", err)
	_, err = client.MemberList(ctx)
	say(who+" lists members", "yes", err)
	_, err = client.UserList(ctx)
	say(who+" lists users", "yes", err)
}
