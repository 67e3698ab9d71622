//! Rules for the description of a table: whether the function works on it. No I/O.
//!
//! A finding holds names and settings of the table, and counts of items. It never holds the value of an item.

use aws_sdk_dynamodb::types::{
    GlobalSecondaryIndexDescription, IndexStatus, KeySchemaElement, ProjectionType, SseDescription, SseType,
    StreamViewType, TableDescription, TableStatus,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// The function works, with a consequence to know.
    Warning,
    /// The function does not work, or does not do what it promises.
    Problem,
}

#[derive(Debug)]
pub struct Finding {
    pub level: Level,
    /// What was found, and what follows.
    pub meaning: String,
    /// What the operator should do about it.
    pub advice: String,
}

/// A table, and how it is to be used.
pub struct Observed<'a> {
    pub table: &'a TableDescription,
    /// Name of the index that the function will use.
    pub index: &'a str,
    /// Whether other systems must learn of revocations.
    pub expects_stream: bool,
}

/// A fault that a table can have. In both texts, `{}` stands for what was found.
struct Fault {
    level: Level,
    meaning: &'static str,
    advice: &'static str,
    /// What was found, if the table has the fault.
    found: fn(&Observed) -> Option<String>,
}

/// In the order in which to fix them.
const FAULTS: [Fault; 13] = [
    Fault {
        level: Level::Problem,
        meaning: "The table's status is {}, so it cannot be used.",
        advice: "Wait until it is ACTIVE. If it does not get there, the DynamoDB console shows the reason.",
        found: |observed| unusable(observed.table.table_status().map(TableStatus::as_str)),
    },
    Fault {
        level: Level::Problem,
        meaning: "The table's key is {}, so the function cannot read a session by the hash of its token.",
        advice: "A key cannot be changed: create a table with the only key token_hash (S), and move the sessions.",
        found: |observed| Some(key(observed.table, observed.table.key_schema())).filter(|key| key != "token_hash (S)"),
    },
    Fault {
        level: Level::Problem,
        meaning: "The table has no global index {}, so the function cannot find the other sessions of a user.",
        advice: "Add an index with the only key user_id (S) that projects status. \
                 If there is one, check it with --index, and deploy with ExistingIndexName.",
        found: |observed| observed.index().is_none().then(|| observed.index.to_owned()),
    },
    Fault {
        level: Level::Problem,
        meaning: "The index's key is {}: it cannot be queried by user_id alone, or lacks sessions, which are not revoked.",
        advice: "The key of an index cannot be changed: add another index with the only key user_id (S).",
        found: |observed| Some(key(observed.table, observed.index()?.key_schema())).filter(|key| key != "user_id (S)"),
    },
    Fault {
        level: Level::Problem,
        meaning: "The index's status is {}: it lacks sessions, which are not revoked.",
        advice: "Wait until it is ACTIVE. If it does not get there, the DynamoDB console shows the reason.",
        found: |observed| unusable(observed.index()?.index_status().map(IndexStatus::as_str)),
    },
    Fault {
        level: Level::Problem,
        meaning: "The index does not project status, by which the function's query leaves out revoked sessions.",
        advice: "A projection cannot be changed: add another index that projects status only.",
        found: |observed| (!projects_status(observed.index()?)).then(String::new),
    },
    Fault {
        level: Level::Warning,
        meaning: "The index projects more than status. A call reads all entries of its user: large ones make it slow.",
        advice: "Add an index that projects status only, and let TTL delete expired sessions.",
        found: |observed| {
            let index = observed.index().filter(|index| projects_status(index))?;
            (index.projection()?.non_key_attributes() != ["status"]).then(String::new)
        },
    },
    Fault {
        level: Level::Warning,
        meaning: "The index has {}: a session that is not in the index is never revoked.",
        advice: "Give every session a user_id. DynamoDB counts about every six hours: run this again after that.",
        found: |observed| {
            let (items, entries) = (observed.table.item_count()?, observed.index()?.item_count()?);
            // Table and index are counted at different moments, so a difference of 1 % proves nothing.
            (items - entries > items / 100).then(|| format!("{entries} entries for {items} items"))
        },
    },
    Fault {
        level: Level::Warning,
        meaning: "The index has {}: while it is throttled, so are all writes to the table.",
        advice: "Give the index as many write units as the table, also as the minimum of its auto scaling.",
        found: |observed| {
            let of_table = observed.table.provisioned_throughput()?.write_capacity_units()?;
            let of_index = observed.index()?.provisioned_throughput()?.write_capacity_units()?;
            (of_index < of_table).then(|| format!("{of_index} write units, and the table {of_table}"))
        },
    },
    Fault {
        level: Level::Problem,
        meaning: "DynamoDB cannot use the table's KMS key {}, so nothing can read the table.",
        advice: "Enable the key, and let its policy allow DynamoDB to use it.",
        found: |observed| kms_key(observed.table.sse_description().filter(|sse| is_inaccessible(sse))?),
    },
    Fault {
        level: Level::Warning,
        meaning: "The table is encrypted with the KMS key {}. If it is yours, the function's role needs kms:Decrypt.",
        advice: "Deploy with TableKeyArn={}. If the key is AWS's own, alias aws/dynamodb, do nothing.",
        found: |observed| kms_key(observed.table.sse_description().filter(|sse| !is_inaccessible(sse))?),
    },
    Fault {
        level: Level::Problem,
        meaning: "The table has no stream with the images before and after a change: no system learns of revocations.",
        advice: "Enable a stream with the view NEW_AND_OLD_IMAGES. Disable one with another view first.",
        found: |observed| {
            let stream = observed.table.stream_specification().filter(|stream| stream.stream_enabled());
            let view = stream.and_then(|stream| stream.stream_view_type());
            (observed.expects_stream && view != Some(&StreamViewType::NewAndOldImages)).then(String::new)
        },
    },
    Fault {
        level: Level::Warning,
        meaning: "The table is a global table ({}): a write in another region can undo a revocation.",
        advice: "Send all writes of one user to one region. See \"Several regions\" in docs/operations.md.",
        found: |observed| {
            let replicas = observed.table.replicas().iter();
            let regions: Vec<_> = replicas.filter_map(|replica| replica.region_name()).collect();
            (!regions.is_empty()).then(|| regions.join(", "))
        },
    },
];

/// The faults of a table.
pub fn findings(observed: &Observed) -> Vec<Finding> {
    let finding = |fault: &Fault| {
        let found = (fault.found)(observed)?;
        let [meaning, advice] = [fault.meaning, fault.advice].map(|text| text.replace("{}", &found));
        Some(Finding { level: fault.level, meaning, advice })
    };
    FAULTS.iter().filter_map(finding).collect()
}

impl Observed<'_> {
    fn index(&self) -> Option<&GlobalSecondaryIndexDescription> {
        self.table.global_secondary_indexes().iter().find(|index| index.index_name() == Some(self.index))
    }
}

/// The status of a table or an index, if it does not allow to use it.
fn unusable(status: Option<&str>) -> Option<String> {
    status.filter(|status| !["ACTIVE", "UPDATING"].contains(status)).map(str::to_owned)
}

/// The attributes of a key and their types, such as `user_id (S)`.
fn key(table: &TableDescription, schema: &[KeySchemaElement]) -> String {
    let attribute = |element: &KeySchemaElement| {
        let name = element.attribute_name();
        let definition = table.attribute_definitions().iter().find(|definition| definition.attribute_name() == name);
        format!("{name} ({})", definition.map_or("?", |definition| definition.attribute_type().as_str()))
    };
    schema.iter().map(attribute).collect::<Vec<_>>().join(" and ")
}

fn projects_status(index: &GlobalSecondaryIndexDescription) -> bool {
    index.projection().is_some_and(|projection| {
        projection.projection_type() == Some(&ProjectionType::All)
            || projection.non_key_attributes().iter().any(|name| name == "status")
    })
}

/// The key in KMS. Without one, the table is encrypted with a key of DynamoDB's own, which takes no permission.
fn kms_key(encryption: &SseDescription) -> Option<String> {
    let is_in_kms = encryption.sse_type() == Some(&SseType::Kms);
    is_in_kms.then(|| encryption.kms_master_key_arn().unwrap_or("unknown").to_owned())
}

fn is_inaccessible(encryption: &SseDescription) -> bool {
    encryption.inaccessible_encryption_date_time().is_some()
}

#[cfg(test)]
#[allow(clippy::unnecessary_wraps, reason = "the members of a description are options")]
mod tests {
    use aws_sdk_dynamodb::primitives::DateTime;
    use aws_sdk_dynamodb::types::{
        AttributeDefinition, KeyType, Projection, ProvisionedThroughputDescription, ReplicaDescription,
        ScalarAttributeType, StreamSpecification,
    };

    use super::*;

    type Table = TableDescription;
    type Index = GlobalSecondaryIndexDescription;

    fn keys(names: &[&str]) -> Option<Vec<KeySchemaElement>> {
        let kinds = [KeyType::Hash, KeyType::Range];
        let key = |(name, kind): (&&str, KeyType)| {
            KeySchemaElement::builder().attribute_name(*name).key_type(kind).build().expect("a key")
        };
        Some(names.iter().zip(kinds).map(key).collect())
    }

    /// The type of each attribute that is in a key.
    fn types(token_hash: ScalarAttributeType, user_id: ScalarAttributeType) -> Option<Vec<AttributeDefinition>> {
        let types = [("token_hash", token_hash), ("user_id", user_id), ("made", ScalarAttributeType::N)];
        let definition = |(name, kind)| {
            AttributeDefinition::builder().attribute_name(name).attribute_type(kind).build().expect("a definition")
        };
        Some(types.map(definition).to_vec())
    }

    fn projecting(kind: ProjectionType, attributes: &[&str]) -> Option<Projection> {
        let attributes = (!attributes.is_empty()).then(|| attributes.iter().map(|name| (*name).to_owned()).collect());
        Some(Projection::builder().projection_type(kind).set_non_key_attributes(attributes).build())
    }

    /// A table as the template makes it, with a change.
    fn table(change: impl FnOnce(&mut Table, &mut Index)) -> Table {
        let mut index = Index::builder()
            .index_name("user_id-index")
            .set_key_schema(keys(&["user_id"]))
            .set_projection(projecting(ProjectionType::Include, &["status"]))
            .index_status(IndexStatus::Active)
            .item_count(1000)
            .build();
        let mut table = Table::builder()
            .table_status(TableStatus::Active)
            .set_key_schema(keys(&["token_hash"]))
            .set_attribute_definitions(types(ScalarAttributeType::S, ScalarAttributeType::S))
            .item_count(1000)
            .build();
        change(&mut table, &mut index);
        table.global_secondary_indexes = Some(vec![index]);
        table
    }

    fn provision(table: &mut Table, index: &mut Index, writes: i64, index_writes: i64) {
        let units = |writes| ProvisionedThroughputDescription::builder().write_capacity_units(writes).build();
        table.provisioned_throughput = Some(units(writes));
        index.provisioned_throughput = Some(units(index_writes));
    }

    fn encrypt(table: &mut Table, lost: Option<DateTime>) {
        let key = SseDescription::builder().sse_type(SseType::Kms).kms_master_key_arn("arn:aws:kms:key/1");
        table.sse_description = Some(key.set_inaccessible_encryption_date_time(lost).build());
    }

    fn stream(table: &mut Table, is_enabled: bool, view: StreamViewType) {
        let stream = StreamSpecification::builder().stream_enabled(is_enabled).stream_view_type(view);
        table.stream_specification = Some(stream.build().expect("a stream"));
    }

    fn faults(table: &Table, expects_stream: bool) -> Vec<Finding> {
        findings(&Observed { table, index: "user_id-index", expects_stream })
    }

    #[test]
    fn a_table_on_which_the_function_works_has_no_fault() {
        for (table, expects_stream) in [
            (table(|_, _| {}), false),
            (table(|table, _| table.table_status = Some(TableStatus::Updating)), false),
            (table(|_, index| index.item_count = Some(990)), false),
            (table(|table, index| provision(table, index, 5, 5)), false),
            (table(|table, _| table.sse_description = Some(SseDescription::builder().build())), false),
            (table(|table, _| stream(table, true, StreamViewType::NewAndOldImages)), true),
        ] {
            let faults = faults(&table, expects_stream);
            assert!(faults.is_empty(), "{faults:#?}");
        }
    }

    #[test]
    fn each_fault_of_a_table_is_the_only_one_reported() {
        use Level::{Problem, Warning};
        use ProjectionType::{All, Include, KeysOnly};
        use ScalarAttributeType::{B, N, S};
        use StreamViewType::{NewAndOldImages, NewImage};
        type Change = fn(&mut Table, &mut Index);
        let cases: [(Level, &str, Change); 18] = [
            (Problem, "table's status is CREATING", |table, _| table.table_status = Some(TableStatus::Creating)),
            (Problem, "table's key is user_id (S)", |table, _| table.key_schema = keys(&["user_id"])),
            (Problem, "table's key is token_hash (S) and made (N)", |table, _| {
                table.key_schema = keys(&["token_hash", "made"]);
            }),
            (Problem, "table's key is token_hash (B)", |table, _| table.attribute_definitions = types(B, S)),
            (Problem, "no global index user_id-index", |_, index| index.index_name = Some("by-user".to_owned())),
            (Problem, "index's key is made (N)", |_, index| index.key_schema = keys(&["made"])),
            (Problem, "index's key is user_id (S) and made (N)", |_, index| {
                index.key_schema = keys(&["user_id", "made"]);
            }),
            (Problem, "index's key is user_id (N)", |table, _| table.attribute_definitions = types(S, N)),
            (Problem, "index's status is CREATING", |_, index| index.index_status = Some(IndexStatus::Creating)),
            (Problem, "not project status", |_, index| index.projection = projecting(Include, &["device"])),
            (Problem, "not project status", |_, index| index.projection = projecting(KeysOnly, &[])),
            (Warning, "more than status", |_, index| index.projection = projecting(Include, &["status", "device"])),
            (Warning, "more than status", |_, index| index.projection = projecting(All, &[])),
            (Warning, "989 entries for 1000 items", |_, index| index.item_count = Some(989)),
            (Warning, "has 5 write units, and the table 9", |table, index| provision(table, index, 9, 5)),
            (Warning, "TableKeyArn=arn:aws:kms:key/1", |table, _| encrypt(table, None)),
            (Problem, "cannot use", |table, _| encrypt(table, Some(DateTime::from_secs(1)))),
            (Warning, "global table (eu-west-1)", |table, _| {
                table.replicas = Some(vec![ReplicaDescription::builder().region_name("eu-west-1").build()]);
            }),
        ];
        for (level, text, change) in cases {
            let faults = faults(&table(change), false);
            let [fault] = &faults[..] else { panic!("{text}: {faults:#?}") };
            assert_eq!(fault.level, level, "{text}: {fault:?}");
            assert!(format!("{} {}", fault.meaning, fault.advice).contains(text), "{text}: {fault:?}");
        }
        let without_stream: [Change; 3] =
            [|_, _| {}, |table, _| stream(table, true, NewImage), |table, _| stream(table, false, NewAndOldImages)];
        for change in without_stream {
            let faults = faults(&table(change), true);
            assert!(matches!(&faults[..], [fault] if fault.meaning.contains("no stream")), "{faults:#?}");
        }
    }
}
