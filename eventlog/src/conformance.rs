//! What every backend promises, as functions: `conformance_suite!` makes them the tests of one backend.
//!
//! Each function takes a [`Store`], an empty store that it may open as often as it likes. A promise that only one
//! engine can be asked for (a hole made by hand, a full disk) is a test of that engine.

mod atomic;
mod bodies;
mod chain;
mod content;
mod directory;
mod fold;
mod idempotency;
mod nodes;
mod order;
mod queue;
mod support;
mod tree;

use std::sync::Arc;

use async_trait::async_trait;

use crate::backend::Backend;

pub use atomic::*;
pub use bodies::*;
pub use chain::*;
pub use content::*;
pub use directory::*;
pub use fold::*;
pub use idempotency::*;
pub use nodes::*;
pub use order::*;
pub use queue::*;
pub use tree::*;

/// An empty store for one test.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Returns the store as one more node of the installation opens it.
    async fn node(&self) -> Arc<dyn Backend>;

    /// Closes everything, so that the next node finds only what is durable.
    async fn restart(&self);
}

/// Makes every promise a test. The argument is an expression that returns a future of a new [`Store`].
#[macro_export]
macro_rules! conformance_suite {
    ($store:expr) => {
        $crate::conformance_suite! { @each $store;
            positions_are_gapless_under_64_producers_and_rejections
            who_has_seen_a_position_never_sees_a_new_event_below_it
            teams_never_meet
            teams_are_listed_in_order_and_by_their_last_move
            a_wake_comes_without_polling
            a_batch_is_written_whole
            a_conflict_writes_nothing
            an_expired_answer_and_a_released_key_can_be_taken_in_the_batch_that_frees_them
            a_wish_fulfilled_already_stores_nothing_again
            the_same_key_gets_the_same_answer
            sixteen_at_once_with_one_key_have_one_effect
            sixteen_at_once_on_two_nodes_have_one_effect
            a_repetition_in_the_same_batch_gets_the_first_ones_answer
            another_request_under_a_used_key_is_refused
            a_key_is_free_again_after_24_hours_and_not_before
            the_same_key_of_two_teams_is_two_keys
            a_rejected_command_does_not_burn_its_key
            bytes_come_back_equal
            any_text_comes_back_equal_or_is_refused_alone
            bodies_come_back_equal
            an_erased_body_is_gone_and_its_event_stays
            old_bodies_move_out_and_read_the_same
            a_mover_that_stopped_anywhere_is_gone_on_with
            an_erasure_beside_a_mover_is_final
            orphans_are_dropped_once_they_are_old_and_only_they
            secrets_come_back_equal_and_only_in_their_place
            secrets_are_sealed_anew_under_another_master_key
            a_secret_that_changed_meanwhile_is_not_replaced
            an_address_is_unique_across_teams_until_it_is_closed
            a_key_digest_is_gone_once_it_is_revoked
            one_of_two_claims_in_one_batch_wins
            a_claim_and_its_release_in_one_batch_leave_nothing
            a_release_frees_a_key_for_what_comes_after_it_in_the_batch
            a_refused_command_releases_nothing
            one_of_two_nodes_wins_an_address
            the_chain_verifies_and_names_the_first_change
            any_change_of_a_record_is_detected
            erasing_personal_halves_leaves_the_chain_whole
            every_erasure_is_counted
            checkpoints_prove_every_record
            two_nodes_that_sign_at_once_agree
            nothing_is_signed_that_does_not_go_on_from_the_last_checkpoint
            what_is_to_be_posted_is_found_until_it_is_marked
            folds_equal_a_replay_from_scratch
            folds_stay_right_when_caches_hold_almost_nothing
            folds_follow_what_other_nodes_append
            snapshots_change_nothing
            a_snapshot_of_before_an_erasure_is_not_kept
            reopening_loses_nothing
            two_nodes_never_exceed_a_limit
            two_nodes_on_one_team_both_make_progress
            nodes_that_share_a_team_stop_colliding
            what_comes_while_a_head_is_waited_for_goes_with_it
            a_node_never_refuses_on_what_it_knew_before
            states_read_beside_appends_are_never_left_stale
            a_wrong_promise_of_freshness_harms_nobody
            a_used_secret_id_harms_nobody_else
            an_unreadable_record_harms_nobody_else
            a_panicking_command_harms_nobody_else
            a_dropped_caller_still_gets_its_events_written
            too_many_submissions_are_refused_at_once
            a_closed_log_has_written_everything_it_took
        }
    };
    (@each $store:expr; $($name:ident)+) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
        async fn $name() {
            $crate::conformance::$name(&$store.await).await;
        }
    )+};
}
