//! Where the notifications of an account at Amazon SES come from: one topic of Amazon SNS, and no other.

use serde::{Deserialize, Serialize};

use super::{Event, Provider, Rejected, Subject, Transport, existing};
use crate::entity::Versioned;
use crate::id::ProviderId;
use crate::{Command, Moment, StreamId};

/// Longest name of a topic (an ARN), octets.
const TOPIC_OCTETS_MAX: usize = 400;

/// Facts of `provider.topic_bound`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicBound {
    /// The account.
    pub provider: ProviderId,
    /// The topic, `arn:aws:sns:<region>:<account>:<name>`.
    pub topic: String,
}

/// Returns whether a text is the name of a topic: `arn:aws…:sns:<region>:<twelve digits>:<name>`.
#[must_use]
pub fn is_topic(text: &str) -> bool {
    let word = |part: &str| {
        !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
    };
    let [arn, partition, service, region, account, name] = text.split(':').collect::<Vec<_>>()[..] else {
        return false;
    };
    text.len() <= TOPIC_OCTETS_MAX
        && (arn, service) == ("arn", "sns")
        && partition.starts_with("aws")
        && [partition, region, name].into_iter().all(word)
        && account.len() == 12
        && account.bytes().all(|b| b.is_ascii_digit())
}

/// Binds an account to the topic whose subscription was confirmed first. Another one is refused until its owner lets go.
#[derive(Debug, Clone)]
pub struct BindTopic {
    /// The account.
    pub provider: ProviderId,
    /// The topic.
    pub topic: String,
}

impl Command for BindTopic {
    type State = Versioned<Provider>;
    type Rejected = Rejected;

    fn streams(&self) -> Vec<StreamId> {
        vec![StreamId::Provider(self.provider.clone())]
    }

    fn decide(&self, state: &Self::State, _: &Moment) -> Result<Vec<crate::Event>, Rejected> {
        existing(state)?;
        if state.topic.as_ref().is_some_and(|bound| *bound != self.topic) {
            return Err(Rejected::AnotherTopic);
        }
        let event = changed(&self.provider, state, Some(&self.topic))?;
        Ok(event.into_iter().map(crate::Event::Provider).collect())
    }
}

/// Returns the event that makes a topic the account's, or takes it away; nothing where it is so already.
pub(super) fn changed(provider: &ProviderId, state: &Provider, topic: Option<&str>) -> Result<Option<Event>, Rejected> {
    if !matches!(existing(state)?.transport, Transport::Ses { .. }) {
        return Err(Rejected::NoNotifications);
    }
    let provider = provider.clone();
    Ok(match topic {
        same if same == state.topic.as_deref() => None,
        Some(topic) => Some(Event::TopicBound(TopicBound { provider, topic: topic.to_owned() }.into())),
        None => Some(Event::TopicReleased(Subject { provider }.into())),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{given, provider_created, provider_id, ses_created};

    const TOPIC: &str = "arn:aws:sns:eu-west-1:123456789012:mail";

    fn bind(topic: &str) -> BindTopic {
        BindTopic { provider: provider_id(1), topic: topic.to_owned() }
    }

    fn bound(topic: &str) -> crate::Event {
        let facts = TopicBound { provider: provider_id(1), topic: topic.to_owned() };
        crate::Event::Provider(Event::TopicBound(facts.into()))
    }

    #[test]
    fn the_first_confirmed_topic_is_the_accounts_and_no_other_one() {
        assert_eq!(given([ses_created(1)]).when(bind(TOPIC)).then_events(), [bound(TOPIC)]);
        given([ses_created(1), bound(TOPIC)]).when(bind(TOPIC)).then_nothing();
        given([ses_created(1), bound(TOPIC)])
            .when(bind("arn:aws:sns:eu-west-1:210987654321:mail"))
            .then_rejected(&Rejected::AnotherTopic);
        given([provider_created(1)]).when(bind(TOPIC)).then_rejected(&Rejected::NoNotifications);
        given([]).when(bind(TOPIC)).then_rejected(&Rejected::Unknown);
    }

    #[test]
    fn only_the_name_of_a_topic_is_one() {
        for good in [TOPIC, "arn:aws-cn:sns:cn-north-1:123456789012:a_b-c.fifo"] {
            assert!(is_topic(good), "{good}");
        }
        for bad in ["", "mail", "arn:aws:sqs:eu-west-1:123456789012:mail", "arn:aws:sns:eu-west-1:12:mail"] {
            assert!(!is_topic(bad), "{bad}");
        }
        assert!(!is_topic(&format!("{TOPIC}:x")));
        assert!(!is_topic(&format!("{TOPIC}{}", "x".repeat(TOPIC_OCTETS_MAX))));
        assert!(!is_topic("arn:aws:sns:eu-west-1:123456789012:ma il"));
    }
}
