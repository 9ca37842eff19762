//! `rivven-node feature`: what the cluster may write to its log, so that every member understands it.

use std::net::SocketAddr;

use clap::Subcommand;
use rivven_admin::{FeatureBody, FeaturesBody};

use super::{AskArgs, ChangeArgs, Failure, Output, block_on, join::admin_token, status};
use crate::client::AdminClient;

#[derive(Debug, Subcommand)]
pub(super) enum FeatureCommand {
    /// Show which levels are finalised, and which every member supports.
    List {
        #[command(flatten)]
        ask: AskArgs,
    },
    /// Let the cluster use a level, once every member supports it. No member can go back to an older release after
    /// that.
    Finalize {
        /// Name of the feature, such as `rivven`.
        feature: String,
        /// The level.
        level: u32,
        #[command(flatten)]
        change: ChangeArgs,
    },
}

pub(super) fn run(command: FeatureCommand, out: &mut Output) -> Result<(), Failure> {
    match command {
        FeatureCommand::List { ask } => list(ask.admin, out),
        FeatureCommand::Finalize {
            feature,
            level,
            change,
        } => {
            let token = admin_token(&change.admin_token)?;
            let mut client = AdminClient::new(change.admin).with_token(token.reveal());
            let done = block_on(async { Ok(client.finalize_feature(&feature, level).await?) })?;
            out.line(format_args!(
                "level {} of feature {feature} is finalised",
                done.level
            ));
            Ok(())
        }
    }
}

fn list(admin: SocketAddr, out: &mut Output) -> Result<(), Failure> {
    let view = block_on(async { Ok(AdminClient::new(admin).features().await?) })?;
    let mut table = status::table();
    table.set_header(["FEATURE", "FINALISED", "ALL SUPPORT", "HELD BACK BY"]);
    for feature in &view.features {
        table.add_row([
            feature.feature.clone(),
            feature.finalized.to_string(),
            feature.common.to_string(),
            held_back(feature),
        ]);
    }
    out.line(table);
    out.line("");
    out.line(advice(&view));
    Ok(())
}

/// The members that support less than others do.
fn held_back(feature: &FeatureBody) -> String {
    let most = feature.members.iter().map(|member| member.level).max();
    let behind = feature.members.iter().filter(|member| Some(member.level) < most);
    let behind: Vec<String> = behind.map(|member| member.node_id.to_string()).collect();
    if behind.is_empty() {
        "-".to_owned()
    } else {
        behind.join(", ")
    }
}

/// What there is to do.
fn advice(view: &FeaturesBody) -> String {
    if !view.silent.is_empty() {
        let silent: Vec<String> = view.silent.iter().map(ToString::to_string).collect();
        return format!(
            "nodes {} do not say what they support; start or remove them before a level is finalised",
            silent.join(", ")
        );
    }
    let possible = view
        .features
        .iter()
        .find(|feature| feature.common > feature.finalized);
    possible.map_or_else(
        || "nothing is left to finalise".to_owned(),
        |feature| {
            format!(
                "until a level is finalised the release before can come back; then: `rivven-node feature finalize {} {}`",
                feature.feature, feature.common
            )
        },
    )
}

#[cfg(test)]
mod tests {
    use rivven_admin::MemberLevelBody;

    use super::*;

    fn view(finalized: u32, levels: [u32; 3], silent: &[u64]) -> FeaturesBody {
        let members = (1..)
            .zip(levels)
            .map(|(node_id, level)| MemberLevelBody { node_id, level });
        FeaturesBody {
            features: vec![FeatureBody {
                feature: "rivven".into(),
                finalized,
                common: levels.into_iter().min().unwrap(),
                members: members.collect(),
            }],
            silent: silent.to_vec(),
        }
    }

    #[test]
    fn the_list_says_who_holds_a_level_back_and_what_there_is_to_do() {
        let upgraded = view(1, [2, 2, 2], &[]);
        assert!(advice(&upgraded).contains("feature finalize rivven 2"));
        assert_eq!(held_back(&upgraded.features[0]), "-");
        let half = view(1, [2, 1, 1], &[]);
        assert_eq!(advice(&half), "nothing is left to finalise");
        assert_eq!(held_back(&half.features[0]), "2, 3");
        assert!(advice(&view(1, [2, 2, 2], &[3])).starts_with("nodes 3 do not say"));
    }
}
