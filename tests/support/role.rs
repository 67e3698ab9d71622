//! The function's role in `template.yaml`: what it allows, and what a request to DynamoDB takes.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use serde_json::Value;

use super::yaml::{list, resource, string};

/// What the role allows in DynamoDB.
pub static ALLOWED: LazyLock<BTreeSet<Permission>> = LazyLock::new(|| {
    let of_dynamodb = |statement: &Statement| statement.actions.iter().any(|action| action.starts_with("dynamodb:"));
    let permissions = statements().filter(of_dynamodb).flat_map(|statement| {
        let on = statement.on.expect("the sessions table or its index");
        statement.actions.into_iter().map(move |action| Permission { action, on })
    });
    permissions.collect()
});

/// An IAM action and the kind of resource it acts on.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Permission {
    pub action: String,
    pub on: Resource,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Resource {
    Table,
    Index,
}

/// A statement of the role's policies.
pub struct Statement {
    pub name: String,
    pub actions: Vec<String>,
    /// Absent if the statement is about something else than the sessions table and its index.
    pub on: Option<Resource>,
}

/// Whether the role allows a request of DynamoDB's API: an operation such as `GetItem`, and its body.
pub fn allows(operation: &str, body: &Value) -> bool {
    needed(operation, body).is_subset(&ALLOWED)
}

/// The permissions that a request takes.
pub fn needed(operation: &str, body: &Value) -> BTreeSet<Permission> {
    if operation == "BatchExecuteStatement" {
        return list(&body["Statements"]).map(|statement| needed_by_partiql(string(&statement["Statement"]))).collect();
    }
    let on = if body["IndexName"].is_string() { Resource::Index } else { Resource::Table };
    [Permission { action: format!("dynamodb:{operation}"), on }].into()
}

/// Source: "IAM security policies with PartiQL for DynamoDB" in the Amazon DynamoDB Developer Guide.
fn needed_by_partiql(statement: &str) -> Permission {
    let action = match statement.split(' ').next() {
        Some("SELECT") => "PartiQLSelect",
        Some("INSERT") => "PartiQLInsert",
        Some("UPDATE") => "PartiQLUpdate",
        Some("DELETE") => "PartiQLDelete",
        _ => panic!("{statement}"),
    };
    let on = if statement.contains(r#"".""#) { Resource::Index } else { Resource::Table };
    Permission { action: format!("dynamodb:{action}"), on }
}

/// The statements of the role's policies, also those that depend on a condition.
pub fn statements() -> impl Iterator<Item = Statement> {
    let policies = list(&resource("FunctionRole")["Policies"]);
    policies.flat_map(|policy| list(&policy["PolicyDocument"]["Statement"])).map(|node| {
        let node = match &node["Fn::If"] {
            Value::Null => node,
            branches => &branches[1],
        };
        assert_eq!(node["Effect"], "Allow");
        let actions = match &node["Action"] {
            Value::String(action) => vec![action.clone()],
            actions => list(actions).map(|action| string(action).to_owned()).collect(),
        };
        Statement { name: string(&node["Sid"]).to_owned(), actions, on: named(&node["Resource"]) }
    })
}

/// Which of the two a policy's resource names. The stack's own table and an existing one must not differ.
fn named(node: &Value) -> Option<Resource> {
    if let Some(branches) = node["Fn::If"].as_array() {
        let (own, existing) = (named(&branches[1]), named(&branches[2]));
        assert_eq!(own, existing, "{node}");
        return own;
    }
    let existing = "arn:${AWS::Partition}:dynamodb:${AWS::Region}:${AWS::AccountId}:table/${ExistingTableName}";
    match node["Fn::GetAtt"].as_str().or(node["Fn::Sub"].as_str()) {
        Some("SessionsTable.Arn") => Some(Resource::Table),
        Some("${SessionsTable.Arn}/index/user_id-index") => Some(Resource::Index),
        Some(name) if name == existing => Some(Resource::Table),
        Some(name) if name == format!("{existing}/index/${{ExistingIndexName}}") => Some(Resource::Index),
        _ => None,
    }
}
