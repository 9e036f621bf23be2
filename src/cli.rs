//! The command line, and what it teaches.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// A self-hosted email platform for SaaS products and AI agents: mailboxes that receive, streams that resume, signed
/// webhooks, usage and audit, all derived from one append-only log per team.
///
/// Without a command it serves. The first start makes a team and prints its keys once, with three commands to paste.
#[derive(Debug, Parser)]
#[command(name = "postlog", version, max_term_width = 100)]
pub struct Cli {
    /// Configuration file; only the keys that differ from the default. See `postlog config default`.
    #[arg(long, global = true, value_name = "FILE", env = "POSTLOG_CONFIG")]
    pub config: Option<PathBuf>,
    /// Where everything is kept; overrides `server.data_dir`.
    #[arg(long, global = true, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// What to do; `serve` if nothing is named.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// See `postlog --help`.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve the API, streams, SMTP and webhooks until SIGTERM (default).
    Serve,
    /// Create and list teams, and move them to other databases.
    #[command(subcommand, visible_alias = "team")]
    Teams(Teams),
    /// Give a team a mail domain that you vouch for.
    #[command(subcommand)]
    Domains(Domains),
    /// Create, list and revoke a team's API keys.
    #[command(subcommand)]
    Keys(Keys),
    /// Give a team a sending account that needs no password of its own, and list its accounts.
    #[command(subcommand)]
    Accounts(Accounts),
    /// Show and change a team's money.
    #[command(subcommand)]
    Billing(Billing),
    /// Check the hash chain of every log, or of one team's, and every checkpoint that was signed over it. Works beside a
    /// running server.
    ///
    /// With --export it checks an export instead, and needs nothing but the public key: no installation, no network.
    ///
    /// Example: postlog verify --export acme-2026 --key postlog/0123456789abcdef+e4a56d6d+AZ…
    Verify(Verify),
    /// Show the public key and the signed checkpoints, and sign one now.
    #[command(subcommand)]
    Checkpoint(Checkpoint),
    /// Prove, as JSON, that an event is in a team's log, or that the log only grew between two sizes.
    #[command(subcommand)]
    Prove(Prove),
    /// Write a team's whole log as sealed files that can be verified without the installation: see `postlog verify --export`.
    ///
    /// Works beside a running server. Signs a checkpoint of the log as it is now. Run again with the same directory, it goes on
    /// where it was broken off. What is erased later is not erased from an export.
    Export(Export),
    /// Compute read models anew from the log, while a running server answers from the old ones.
    ///
    /// Makes way for whoever appends: while mail or requests come in, it rests up to nine times as long as it works.
    Rebuild(Rebuild),
    /// Write a team's read models as of a past moment into a SQLite file that an auditor can query.
    ///
    /// Example: postlog replay --team team_… --until 2026-11-01T00:00:00Z --out november.db
    Replay(Replay),
    /// Erase what identifies a person: from the log, the stored mails and the read models, for good.
    ///
    /// The events themselves, their order and the hash chain stay, and the erasure is on record. Without --yes it only says
    /// what would be erased. Works beside a running server. Backups keep what they hold.
    ///
    /// Example: postlog erase --team team_… address ann@example.com
    Erase(Erase),
    /// Show events that cannot be made into a webhook delivery, and try them again or leave them out.
    #[command(subcommand)]
    Deliveries(Deliveries),
    /// Change the master key, which seals what must be used again: webhook, provider and signing keys.
    ///
    /// Without downtime, on any number of nodes:
    ///
    /// (1) `postlog master-key new FILE`, and bring the file to every node.
    ///
    /// (2) On each node add it to secrets.previous_master_key_files and start it again: now all can open what the new
    /// key will seal.
    ///
    /// (3) On each node name it in secrets.master_key_file, and the old one in previous_master_key_files; start again.
    ///
    /// (4) `postlog master-key reseal`. A day later, when kept answers of requests have expired, take the old one away.
    #[command(subcommand)]
    MasterKey(MasterKeyCommand),
    /// Read a returned mail from standard input and print, as JSON, what it says of each recipient.
    ///
    /// For every recipient: address, action (failed, delayed, delivered, relayed, expanded), bounce_type (hard, soft,
    /// undetermined), category, smtp_code, enhanced_code, diagnostic and remote_mta; by the rules that returned mail is
    /// recorded by. A complaint (RFC 5965) and what is no report at all are named as such. Needs no installation.
    ///
    /// Example: postlog classify-bounce < returned.eml
    ClassifyBounce,
    /// Copy the log into a new directory while the server goes on.
    ///
    /// The copy holds everything that was acknowledged before it began. The secret files are not copied: keep them apart.
    Backup(Backup),
    /// Restore a backup into an empty data directory and begin a new epoch of event ids.
    ///
    /// On PostgreSQL restore the database by its own tools first: then this only begins the epoch. The next start erases again
    /// what the record of erasures names.
    Restore(Restore),
    /// Show and check the configuration.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Measure this machine: mails accepted durably, beside how often its disk flushes.
    Bench(Bench),
}

/// `postlog master-key`
#[derive(Debug, Subcommand)]
pub enum MasterKeyCommand {
    /// Make a file with a new key, readable by its owner only. Nothing uses it yet.
    New {
        /// Where; nothing may be there.
        file: PathBuf,
    },
    /// Seal everything with the current key that an earlier one had sealed. Works beside running servers, and again.
    Reseal,
}

/// `postlog teams`
#[derive(Debug, Subcommand)]
pub enum Teams {
    /// Create a team with an infrastructure key, which is printed once.
    Create {
        /// What people call it.
        #[arg(long)]
        name: String,
        /// A mail domain for its mailboxes that you vouch for.
        #[arg(long)]
        domain: Option<String>,
    },
    /// List all teams.
    List,
    /// Move a team's log to another database of the installation (`[[database.cells]]`), while it is being used.
    ///
    /// Only at the end its writes are refused for a moment, with "try again". Run it again if it was cut off: it goes on
    /// where it was.
    Move {
        /// The team's id.
        team: String,
        /// The cell's name; `home` is the database of `[database] url`.
        cell: String,
    },
    /// Take back a move that has not come to its end: the team goes on where it lives.
    Stay {
        /// The team's id.
        team: String,
    },
}

/// `postlog domains`
#[derive(Debug, Subcommand)]
pub enum Domains {
    /// Add a verified domain to a team.
    Add {
        /// The team's id.
        #[arg(long)]
        team: String,
        /// The domain, for example example.com.
        #[arg(long)]
        domain: String,
        /// Only for sending, not for mailboxes.
        #[arg(long)]
        send_only: bool,
    },
}

/// Which surface a key is for.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum KeyKind {
    /// Management of the whole team.
    Infrastructure,
    /// Sending for the whole team.
    Sending,
}

/// `postlog keys`
#[derive(Debug, Subcommand)]
pub enum Keys {
    /// Create a key; its secret is printed once.
    Create {
        /// The team's id.
        #[arg(long)]
        team: String,
        /// What it is called.
        #[arg(long)]
        name: String,
        /// Which surface it is for.
        #[arg(long, value_enum, default_value = "infrastructure")]
        kind: KeyKind,
        /// A preset (root:full, root:readonly, root:webhook_admin, root:provider_admin, root:billing_admin) or a
        /// permission such as webhook.read; repeatable. Sending keys hold email.send.
        #[arg(long = "permission", default_value = "root:full")]
        permissions: Vec<String>,
    },
    /// List a team's keys; secrets are never shown again.
    List {
        /// The team's id.
        #[arg(long)]
        team: String,
    },
    /// Revoke a key at once.
    Revoke {
        /// The team's id.
        #[arg(long)]
        team: String,
        /// The key's id (smx_…).
        key: String,
    },
}

/// Where the mail of an account goes.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum AccountKind {
    /// Straight to the recipients' mail exchangers, from this machine's own address.
    Direct,
    /// To this installation's mailboxes and the simulator; nothing leaves the machine.
    Sandbox,
}

/// `postlog accounts`
#[derive(Debug, Subcommand)]
pub enum Accounts {
    /// Add an account. Accounts with a server and a password are added by the team: POST /providers.
    Add {
        /// The team's id.
        #[arg(long)]
        team: String,
        /// Where its mail goes.
        #[arg(long, value_enum)]
        kind: AccountKind,
        /// What it is called.
        #[arg(long)]
        name: String,
        /// Run it for the team, at the price of managed sending: the team can use it and not change it.
        #[arg(long)]
        managed: bool,
    },
    /// List a team's accounts.
    List {
        /// The team's id.
        #[arg(long)]
        team: String,
    },
}

/// `postlog billing`
#[derive(Debug, Subcommand)]
pub enum Billing {
    /// Show what a team has, what is held and what it may spend.
    Show {
        /// The team's id.
        #[arg(long)]
        team: String,
    },
    /// Book a payment of a team. The same --payment is booked once.
    ///
    /// Example: postlog billing top-up --team team_… --amount 25.50
    TopUp {
        /// The team's id.
        #[arg(long)]
        team: String,
        /// US dollars, more than zero, with at most nine decimals.
        #[arg(long)]
        amount: String,
        /// The payment's id (pay_…), to make a repetition harmless; a new one if absent.
        #[arg(long)]
        payment: Option<String>,
        /// A gift rather than a payment.
        #[arg(long)]
        credit: bool,
        /// What people read beside it.
        #[arg(long)]
        note: Option<String>,
    },
    /// Correct a balance, up or down.
    Adjust {
        /// The team's id.
        #[arg(long)]
        team: String,
        /// US dollars, negative to take away, with at most nine decimals.
        #[arg(long, allow_hyphen_values = true)]
        amount: String,
        /// The correction's id (pay_…), to make a repetition harmless; a new one if absent.
        #[arg(long)]
        payment: Option<String>,
        /// Money given back for something charged.
        #[arg(long)]
        refund: bool,
        /// What people read beside it.
        #[arg(long)]
        note: Option<String>,
    },
    /// Set how much a team may spend before it pays.
    CreditLimit {
        /// The team's id.
        #[arg(long)]
        team: String,
        /// US dollars, with at most nine decimals.
        #[arg(long)]
        amount: String,
    },
}

/// `postlog verify`
#[derive(Debug, Args)]
pub struct Verify {
    /// Only this team.
    #[arg(long, conflicts_with = "export")]
    pub team: Option<String>,
    /// A directory that `postlog export` wrote.
    #[arg(long, value_name = "DIR", requires = "key")]
    pub export: Option<PathBuf>,
    /// The public key that signed it, as `postlog checkpoint key` printed it once; repeatable after a change of keys.
    #[arg(long, value_name = "KEY", requires = "export")]
    pub key: Vec<String>,
    /// A checkpoint that was kept elsewhere and must go with the log; repeatable.
    #[arg(long, value_name = "FILE", requires = "export")]
    pub checkpoint: Vec<PathBuf>,
}

/// `postlog checkpoint`
#[derive(Debug, Subcommand)]
pub enum Checkpoint {
    /// Print the public key. Keep it where nobody can change it together with the log.
    Key,
    /// Print a team's latest checkpoint, or the one of a size.
    Show {
        /// The team's id.
        #[arg(long)]
        team: String,
        /// How many events it covers.
        #[arg(long)]
        size: Option<u64>,
    },
    /// Sign a checkpoint of a team's log as it is now, and print it.
    Sign {
        /// The team's id.
        #[arg(long)]
        team: String,
    },
}

/// `postlog prove`
#[derive(Debug, Subcommand)]
pub enum Prove {
    /// Prove that an event is in the log that a checkpoint was signed over.
    Inclusion {
        /// The team's id.
        #[arg(long)]
        team: String,
        /// The event's position.
        #[arg(long)]
        position: u64,
        /// How many events the tree is over; those of the latest checkpoint if absent.
        #[arg(long)]
        size: Option<u64>,
    },
    /// Prove that the log of one size begins with the log of a smaller one.
    Consistency {
        /// The team's id.
        #[arg(long)]
        team: String,
        /// How many events the shorter log has.
        #[arg(long)]
        from: u64,
        /// How many events the longer log has; those of the latest checkpoint if absent.
        #[arg(long)]
        to: Option<u64>,
    },
}

/// `postlog export`
#[derive(Debug, Args)]
pub struct Export {
    /// The team's id.
    pub team: String,
    /// The directory to write.
    #[arg(value_name = "DIR")]
    pub directory: PathBuf,
    /// Leave out what identifies people: addresses, names, subjects.
    #[arg(long)]
    pub without_personal: bool,
    /// Write the stored mails and other bodies, too.
    #[arg(long)]
    pub bodies: bool,
    /// A file is sealed once it has so many MiB.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub segment_mebibytes: u16,
}

/// `postlog rebuild`
#[derive(Debug, Args)]
pub struct Rebuild {
    /// Only this read model, for example messages; all if none is named.
    pub projection: Option<String>,
    /// Only this team.
    #[arg(long)]
    pub team: Option<String>,
}

/// `postlog replay`
#[derive(Debug, Args)]
pub struct Replay {
    /// The team's id.
    #[arg(long)]
    pub team: String,
    /// The last moment to include: a position in the log, or a time like 2026-11-01T00:00:00Z.
    #[arg(long, value_name = "POSITION|TIME")]
    pub until: String,
    /// The file to write; it must not exist.
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
}

/// `postlog erase`
#[derive(Debug, Args)]
pub struct Erase {
    /// The team's id.
    #[arg(long)]
    pub team: String,
    /// Do it; otherwise only what would be erased is shown.
    #[arg(long)]
    pub yes: bool,
    /// What to erase.
    #[command(subcommand)]
    pub what: ErasureSubject,
}

/// What is erased.
#[derive(Debug, Subcommand)]
pub enum ErasureSubject {
    /// One message: addresses, names, subject, preview, its body and attachments, and who read it from where. Of a copy in
    /// Sent also the mail it is a copy of.
    Message {
        /// The message's id (msg_…).
        id: String,
    },
    /// Whatever names an address: every message from or to it in all mailboxes, every mail sent to it, what servers said of
    /// it, notes. Settings in force that name it are shown and stay.
    Address {
        /// The address, for example ann@example.com. An open mailbox of the team is erased as a mailbox.
        address: String,
    },
    /// A closed mailbox: its name, its keys' names, its sender rules and everything that was in it or sent from it.
    Mailbox {
        /// The mailbox's id (mbx_…).
        id: String,
    },
    /// The whole team: ends its keys, webhooks, mailboxes, accounts and domains, then erases everything that names anybody.
    Everything,
}

/// `postlog deliveries`
#[derive(Debug, Subcommand)]
pub enum Deliveries {
    /// List events that cannot be made into a delivery; their mailbox waits, for that webhook.
    Stuck,
    /// Try one of them again, for instance with a newer build.
    Retry(StuckDelivery),
    /// Leave one of them out for good; the log records it as delivery.skipped.
    Skip(StuckDelivery),
}

/// One event that is stuck for a webhook.
#[derive(Debug, Args)]
pub struct StuckDelivery {
    /// The team's id.
    #[arg(long)]
    pub team: String,
    /// The webhook's id (whk_…).
    #[arg(long)]
    pub webhook: String,
    /// The event's position in the log, as listed.
    #[arg(long)]
    pub position: u64,
}

/// `postlog backup`
#[derive(Debug, Args)]
pub struct Backup {
    /// The directory to write; it must not exist.
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
}

/// `postlog restore`
#[derive(Debug, Args)]
pub struct Restore {
    /// A directory that `postlog backup` wrote. Not for PostgreSQL, which its own tools have restored before.
    #[arg(long, value_name = "DIR")]
    pub from: Option<PathBuf>,
}

/// `postlog config`
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Check the configuration and show every problem at once.
    Check,
    /// Print the default configuration, with every key explained.
    Default,
}

/// `postlog bench`
#[derive(Debug, Args)]
pub struct Bench {
    /// How many producers submit at the same time; repeatable.
    #[arg(long = "producers", default_values_t = [1usize, 16, 64, 256])]
    pub producers: Vec<usize>,
    /// How long each measurement takes.
    #[arg(long, default_value_t = 3)]
    pub seconds: u64,
}
