//! The functions that a scriptlet can call, beside those of Starlark.

use starlark::environment::GlobalsBuilder;
use starlark::eval::Evaluator;
use starlark::starlark_module;
use starlark::values::Value;
use starlark::values::none::{NoneOr, NoneType};
use starlark::values::tuple::UnpackTuple;

use crate::run::current;
use crate::{Question, value};

fn ask<'v>(evaluator: &Evaluator<'v, '_, '_>, question: &Question) -> anyhow::Result<Value<'v>> {
    let answer = current()?.answers.answer(question).map_err(|e| anyhow::anyhow!(e))?;
    Ok(value::object(evaluator.heap(), &answer))
}

/// The arguments one after another, text as it is.
fn line(messages: &[Value<'_>]) -> String {
    messages.iter().map(|m| m.unpack_str().map_or_else(|| m.to_str(), str::to_owned)).collect()
}

fn text(value: NoneOr<&str>) -> String {
    value.into_option().unwrap_or_default().to_owned()
}

#[starlark_module]
pub fn functions(builder: &mut GlobalsBuilder) {
    /// Writes to the daemon's log.
    fn log_info<'v>(#[starlark(args)] messages: UnpackTuple<Value<'v>>) -> anyhow::Result<NoneType> {
        tracing::info!("placement scriptlet: {}", line(&messages.items));
        Ok(NoneType)
    }

    /// Writes a warning to the daemon's log.
    fn log_warn<'v>(#[starlark(args)] messages: UnpackTuple<Value<'v>>) -> anyhow::Result<NoneType> {
        tracing::warn!("placement scriptlet: {}", line(&messages.items));
        Ok(NoneType)
    }

    /// Writes an error to the daemon's log.
    fn log_error<'v>(#[starlark(args)] messages: UnpackTuple<Value<'v>>) -> anyhow::Result<NoneType> {
        tracing::error!("placement scriptlet: {}", line(&messages.items));
        Ok(NoneType)
    }

    /// Names the member that takes the instance: one of the candidates.
    fn set_target(member_name: &str) -> anyhow::Result<NoneType> {
        let run = current()?;
        if !run.candidates.contains(member_name) {
            anyhow::bail!("\"{member_name}\" is none of the members that can take the instance");
        }
        run.target.replace(Some(member_name.to_owned()));
        Ok(NoneType)
    }

    /// The hardware of a member.
    fn get_cluster_member_resources<'v>(
        member_name: &str,
        eval: &mut Evaluator<'v, '_, '_>,
    ) -> anyhow::Result<Value<'v>> {
        ask(eval, &Question::MemberResources(member_name.to_owned()))
    }

    /// What a member is busy with.
    fn get_cluster_member_state<'v>(member_name: &str, eval: &mut Evaluator<'v, '_, '_>) -> anyhow::Result<Value<'v>> {
        ask(eval, &Question::MemberState(member_name.to_owned()))
    }

    /// What the instance needs.
    fn get_instance_resources<'v>(eval: &mut Evaluator<'v, '_, '_>) -> anyhow::Result<Value<'v>> {
        ask(eval, &Question::InstanceResources)
    }

    /// The instances, on a member and of a project if these are named.
    fn get_instances<'v>(
        #[starlark(default = NoneOr::None)] location: NoneOr<&str>,
        #[starlark(default = NoneOr::None)] project: NoneOr<&str>,
        eval: &mut Evaluator<'v, '_, '_>,
    ) -> anyhow::Result<Value<'v>> {
        ask(eval, &Question::Instances { location: text(location), project: text(project) })
    }

    /// How many instances there are, on a member and of a project if these are named.
    fn get_instances_count<'v>(
        #[starlark(default = NoneOr::None)] location: NoneOr<&str>,
        #[starlark(default = NoneOr::None)] project: NoneOr<&str>,
        #[starlark(default = false)] pending: bool,
        eval: &mut Evaluator<'v, '_, '_>,
    ) -> anyhow::Result<Value<'v>> {
        ask(eval, &Question::InstancesCount { location: text(location), project: text(project), pending })
    }

    /// The members of a group, or all.
    fn get_cluster_members<'v>(
        #[starlark(default = NoneOr::None)] group: NoneOr<&str>,
        eval: &mut Evaluator<'v, '_, '_>,
    ) -> anyhow::Result<Value<'v>> {
        ask(eval, &Question::Members(text(group)))
    }

    /// A project.
    fn get_project<'v>(name: &str, eval: &mut Evaluator<'v, '_, '_>) -> anyhow::Result<Value<'v>> {
        ask(eval, &Question::Project(name.to_owned()))
    }
}
