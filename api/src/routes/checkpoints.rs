//! Checkpoints of the team's log, and proofs against them: what an auditor keeps, and asks again later.

use axum::extract::State;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use domain::id::{EventId, Position};
use domain::published::rfc3339;
use eventlog::{CheckpointRow, Proof, merkle};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::auth::{FromLog, guards};
use crate::envelope::{Data, Reply};
use crate::openapi::Routes;
use crate::path::Id;
use crate::problem::{Code, Problem};
use crate::query::Query;
use crate::{App, door};

pub(super) fn routes() -> Routes {
    Routes::new()
        .with(door!(get_checkpoint_key))
        .with(door!(get_latest_checkpoint))
        .with(door!(get_checkpoint))
        .with(door!(prove_inclusion))
        .with(door!(prove_consistency))
}

/// What signatures are verified with.
#[derive(Debug, Clone, Serialize, ToSchema)]
struct CheckpointKey {
    /// The public key as tools for signed notes take it: name, hash and key.
    #[schema(example = "postlog/0123456789abcdef+e4a56d6d+AZ…")]
    verifier_key: String,
    /// The first line of the team's checkpoints.
    origin: String,
}

/// A signed checkpoint.
#[derive(Debug, Clone, Serialize, ToSchema)]
struct Checkpoint {
    /// The last position it covers: how many events the log had.
    size: u64,
    signed_at: String,
    /// The signed note: origin, size and Merkle root in base64, then the signatures (C2SP tlog-checkpoint).
    note: String,
}

impl From<CheckpointRow> for Checkpoint {
    fn from(row: CheckpointRow) -> Self {
        Self { size: row.size, signed_at: rfc3339(row.made_at), note: row.note }
    }
}

/// A proof that an event is in the log that a checkpoint was signed over.
#[derive(Debug, Clone, Serialize, ToSchema)]
struct InclusionProof {
    /// The event's place in the log. It is leaf `sequence - 1` of the tree.
    sequence: u64,
    /// The hash in the event's record, lower-case hex: the content of the leaf.
    record_hash: String,
    /// The hash of the leaf, base64.
    leaf_hash: String,
    /// How many events the tree is over.
    size: u64,
    /// The tree's root, base64.
    root: String,
    /// The path from the leaf to the root, base64 (RFC 9162 section 2.1.3).
    proof: Vec<String>,
    /// The checkpoint of this size, if one was signed.
    #[schema(required)]
    checkpoint: Option<Checkpoint>,
}

/// A proof that a log begins with a shorter one.
#[derive(Debug, Clone, Serialize, ToSchema)]
struct ConsistencyProof {
    /// How many events the shorter log has.
    from: u64,
    /// The root over these, base64.
    from_root: String,
    /// How many events the longer log has.
    size: u64,
    /// The root over these, base64.
    root: String,
    /// Nodes of the tree, base64 (RFC 9162 section 2.1.4).
    proof: Vec<String>,
    /// The checkpoint of the longer log, if one was signed.
    #[schema(required)]
    checkpoint: Option<Checkpoint>,
}

fn base64(hash: &merkle::Hash) -> String {
    BASE64_STANDARD.encode(hash)
}

fn base64s(proof: &Proof) -> Vec<String> {
    proof.hashes.iter().map(base64).collect()
}

/// Get the checkpoint key
///
/// The public key that checkpoints and exports are verified with. Keep it where the installation cannot change it.
#[utoipa::path(
    get,
    path = "/audit/checkpoint-key",
    tag = "Audit",
    operation_id = "managementGetCheckpointKey",
    responses((status = 200, description = "The key", body = Data<CheckpointKey>)),
)]
async fn get_checkpoint_key(
    call: FromLog<guards::AuditRead>,
    State(app): State<App>,
) -> Result<Reply<Data<CheckpointKey>>, Problem> {
    let key = app.checkpoint_key.as_ref().ok_or_else(Problem::not_found)?;
    let data = CheckpointKey { verifier_key: key.to_string(), origin: key.origin(&call.caller.team) };
    Ok(Reply::ok(call.data(data)))
}

/// Get the latest checkpoint
///
/// What was last signed of the team's log: at least every 1,000 events, and within 60 seconds of an event, unless the
/// installation is configured otherwise.
#[utoipa::path(
    get,
    path = "/audit/checkpoint",
    tag = "Audit",
    operation_id = "managementGetLatestCheckpoint",
    responses(
        (status = 200, description = "The checkpoint", body = Data<Checkpoint>),
        (status = 404, description = "Nothing was signed yet"),
    ),
)]
async fn get_latest_checkpoint(
    call: FromLog<guards::AuditRead>,
    State(app): State<App>,
) -> Result<Reply<Data<Checkpoint>>, Problem> {
    let row = app.log.last_checkpoint(&call.caller.team).await?.ok_or_else(Problem::not_found)?;
    Ok(Reply::ok(call.data(row.into())))
}

/// Get a checkpoint
///
/// The checkpoint that covers exactly this many events.
#[utoipa::path(
    get,
    path = "/audit/checkpoints/{size}",
    tag = "Audit",
    operation_id = "managementGetCheckpoint",
    params(("size" = u64, Path, description = "How many events it covers.", example = "4711")),
    responses(
        (status = 200, description = "The checkpoint", body = Data<Checkpoint>),
        (status = 404, description = "None was signed at this size"),
    ),
)]
async fn get_checkpoint(
    call: FromLog<guards::AuditRead>,
    State(app): State<App>,
    Id(size): Id<i64>,
) -> Result<Reply<Data<Checkpoint>>, Problem> {
    let size = Position::try_from(size).map_err(|_| Problem::not_found())?;
    let row = app.log.checkpoint(&call.caller.team, size).await?.ok_or_else(Problem::not_found)?;
    Ok(Reply::ok(call.data(row.into())))
}

/// Parameters of an inclusion proof.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct InclusionQuery {
    /// The event's id. Either this or `sequence`.
    event_id: Option<String>,
    /// The event's place in the log.
    #[param(minimum = 1)]
    sequence: Option<u32>,
    /// How many events the tree is over; those of the latest checkpoint if absent.
    #[param(minimum = 1)]
    size: Option<u32>,
}

impl InclusionQuery {
    /// Returns the place that is asked for. An id of another team or of before a restore is one of nothing.
    fn position(&self, call: &FromLog<guards::AuditRead>) -> Result<Position, Problem> {
        match (&self.event_id, self.sequence) {
            (Some(_), Some(_)) => {
                Err(Problem::invalid("sequence", "invalid_value", "give either event_id or sequence"))
            }
            (None, None) => Err(Problem::missing("event_id")),
            (None, Some(sequence)) => Ok(sequence.into()),
            (Some(id), None) => {
                let id: EventId = id.parse().map_err(|_| Problem::not_found())?;
                if id.is_of(&call.caller.team) { Ok(id.position) } else { Err(Problem::not_found()) }
            }
        }
    }
}

/// Returns how many events the latest checkpoint covers.
async fn latest(app: &App, call: &FromLog<guards::AuditRead>) -> Result<Position, Problem> {
    let row = app.log.last_checkpoint(&call.caller.team).await?;
    row.map(|row| row.size).ok_or_else(uncovered)
}

fn uncovered() -> Problem {
    Problem::new(Code::NotFound, "No checkpoint covers this yet.")
}

/// Prove an event
///
/// Proves that an event is in the log that a checkpoint was signed over.
#[utoipa::path(
    get,
    path = "/audit/proofs/inclusion",
    tag = "Audit",
    operation_id = "managementProveInclusion",
    params(InclusionQuery),
    responses(
        (status = 200, description = "The proof", body = Data<InclusionProof>),
        (status = 404, description = "No such event, or no checkpoint covers it yet"),
    ),
)]
async fn prove_inclusion(
    call: FromLog<guards::AuditRead>,
    State(app): State<App>,
    Query(query): Query<InclusionQuery>,
) -> Result<Reply<Data<InclusionProof>>, Problem> {
    let (team, position) = (&call.caller.team, query.position(&call)?);
    let size = match query.size {
        Some(size) => size.into(),
        None => latest(&app, &call).await?,
    };
    let proof = app.log.prove_inclusion(team, position, size).await?.ok_or_else(uncovered)?;
    let record = app.log.read_stored(team, position - 1, 1).await?.pop().ok_or_else(Problem::not_found)?;
    let id = EventId::new(team, record.epoch, position).to_string();
    if query.event_id.is_some_and(|asked| asked != id) {
        return Err(Problem::not_found());
    }
    Ok(Reply::ok(call.data(InclusionProof {
        sequence: position,
        record_hash: hex::encode(record.hash),
        leaf_hash: base64(&merkle::leaf(&record.hash)),
        size,
        root: base64(&proof.root),
        proof: base64s(&proof),
        checkpoint: app.log.checkpoint(team, size).await?.map(Into::into),
    })))
}

/// Parameters of a consistency proof.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct ConsistencyQuery {
    /// How many events the shorter log has.
    #[param(minimum = 1)]
    from: u32,
    /// How many events the longer log has; those of the latest checkpoint if absent.
    #[param(minimum = 1)]
    to: Option<u32>,
}

/// Prove that the log only grew
///
/// Proves that the log of one size begins with the log of a smaller one: nothing of it was changed, removed or reordered.
#[utoipa::path(
    get,
    path = "/audit/proofs/consistency",
    tag = "Audit",
    operation_id = "managementProveConsistency",
    params(ConsistencyQuery),
    responses(
        (status = 200, description = "The proof", body = Data<ConsistencyProof>),
        (status = 404, description = "No checkpoint covers this yet"),
    ),
)]
async fn prove_consistency(
    call: FromLog<guards::AuditRead>,
    State(app): State<App>,
    Query(query): Query<ConsistencyQuery>,
) -> Result<Reply<Data<ConsistencyProof>>, Problem> {
    let (team, from) = (&call.caller.team, Position::from(query.from));
    let size = match query.to {
        Some(size) => size.into(),
        None => latest(&app, &call).await?,
    };
    if from == 0 || from > size {
        return Err(Problem::invalid("from", "invalid_value", "from must be 1 to the size of the longer log"));
    }
    let proof = app.log.prove_consistency(team, from, size).await?.ok_or_else(uncovered)?;
    let from_root = app.log.root(team, from).await?.ok_or_else(uncovered)?;
    Ok(Reply::ok(call.data(ConsistencyProof {
        from,
        from_root: base64(&from_root),
        size,
        root: base64(&proof.root),
        proof: base64s(&proof),
        checkpoint: app.log.checkpoint(team, size).await?.map(Into::into),
    })))
}
