//! YAML as JSON values. An alias is replaced by a copy of the node that its anchor marks. A short tag of an intrinsic
//! function becomes the long form: `!Ref Stage` is `{"Ref": "Stage"}`, and `!If [A, 1, 2]` is `{"Fn::If": ["A", 1, 2]}`.

use std::sync::LazyLock;

use saphyr::{LoadableYamlNode, Scalar, Yaml};
use serde_json::{Value, json};

/// `template.yaml`.
static TEMPLATE: LazyLock<Value> = LazyLock::new(|| parse(include_str!("../../template.yaml")));

/// The properties of a resource in `template.yaml`.
pub fn resource(name: &str) -> &'static Value {
    let resource = &TEMPLATE["Resources"][name];
    assert!(resource.is_object(), "template.yaml has no resource {name}");
    &resource["Properties"]
}

/// The value of the one document in a text.
pub fn parse(text: &str) -> Value {
    let documents = Yaml::load_from_str(text).expect("YAML");
    let [document] = &documents[..] else { panic!("{} documents", documents.len()) };
    value(document)
}

/// The elements of a list.
pub fn list(node: &Value) -> impl Iterator<Item = &Value> {
    node.as_array().unwrap_or_else(|| panic!("not a list: {node}")).iter()
}

/// The keys and values of a mapping.
pub fn entries(node: &Value) -> impl Iterator<Item = (&str, &Value)> {
    node.as_object().unwrap_or_else(|| panic!("not a mapping: {node}")).iter().map(|(key, value)| (key.as_str(), value))
}

pub fn string(node: &Value) -> &str {
    node.as_str().unwrap_or_else(|| panic!("not a string: {node}"))
}

fn value(node: &Yaml) -> Value {
    match node {
        Yaml::Mapping(mapping) => mapping.iter().map(|(key, node)| (key_of(key), value(node))).collect(),
        Yaml::Sequence(sequence) => sequence.iter().map(value).collect(),
        Yaml::Value(Scalar::String(text)) => json!(text),
        Yaml::Value(Scalar::Integer(number)) => json!(number),
        Yaml::Value(Scalar::FloatingPoint(number)) => json!(number.into_inner()),
        Yaml::Value(Scalar::Boolean(value)) => json!(value),
        Yaml::Value(Scalar::Null) => Value::Null,
        Yaml::Tagged(tag, node) if tag.handle == "!" => json!({(function(&tag.suffix)): value(node)}),
        other => panic!("unexpected YAML: {other:?}"),
    }
}

fn key_of(key: &Yaml) -> String {
    key.as_str().unwrap_or_else(|| panic!("a key that is not a string: {key:?}")).to_owned()
}

/// Source: "Intrinsic function reference" in the AWS `CloudFormation` Template Reference.
fn function(tag: &str) -> String {
    if ["Ref", "Condition"].contains(&tag) { tag.to_owned() } else { format!("Fn::{tag}") }
}
