//! Rules for the description of a table: whether the function works on it. No I/O.
//!
//! A finding holds names and settings of the table, and counts of items. It never holds the value of an item.

use aws_sdk_dynamodb::types::{
    BillingMode, GlobalSecondaryIndexDescription, IndexStatus, KeySchemaElement, KeyType, MultiRegionConsistency,
    OnDemandThroughput, ProjectionType, ProvisionedThroughputDescription, ScalarAttributeType, SseType, StreamViewType,
    TableDescription, TableStatus, TimeToLiveDescription, TimeToLiveStatus,
};

use super::items::Sample;

/// Size of an index entry, in bytes, above which the projection is worth a warning. With `status` alone it is about 135.
const LARGE_ENTRY: i64 = 400;

/// Writes per second that one partition of an index takes, and with it all sessions of one user. Less capacity slows down
/// a revocation; more does not make it faster.
const PARTITION_WRITES: i64 = 1000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    Ok,
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
    /// What to do. Empty if there is nothing to do.
    pub advice: String,
}

/// All that was read of a table.
pub struct Observed<'a> {
    pub table: &'a TableDescription,
    /// Name of the index that the function will use.
    pub index: &'a str,
    /// Whether others must hear of revocations.
    pub expects_stream: bool,
    /// `None` if the settings of TTL could not be read.
    pub time_to_live: Option<&'a TimeToLiveDescription>,
    /// `None` if no item could be read.
    pub sample: Option<&'a Sample>,
}

/// Every finding, in the order in which to fix problems: keys, index, settings, items.
pub fn findings(observed: &Observed) -> Vec<Finding> {
    let Observed { table, index: name, expects_stream, time_to_live, sample } = *observed;
    let mut findings = vec![status("table", table.table_status().map(TableStatus::as_str)), key(table)];
    match table.global_secondary_indexes().iter().find(|index| index.index_name() == Some(name)) {
        Some(index) => {
            findings.extend([
                index_key(table, index),
                status("index", index.index_status().map(IndexStatus::as_str)),
                projection(index),
                capacity(table, index),
            ]);
            findings.extend(index_is_complete(table, index));
            findings.extend(warm_throughput(table, index));
        }
        None => findings.push(no_index(table, name)),
    }
    findings.extend([ttl(time_to_live), encryption(table)]);
    findings.extend(stream(table, expects_stream));
    findings.extend(replicas(table));
    findings.extend(sample.map_or_else(
        || {
            vec![warning(
                "No item could be read, so the items are not checked.",
                "Allow dynamodb:Scan on the table, and run this again.",
            )]
        },
        Sample::findings,
    ));
    findings
}

/// The attribute by which TTL deletes items, if it does.
pub fn ttl_attribute(ttl: &TimeToLiveDescription) -> Option<&str> {
    let enabled = matches!(ttl.time_to_live_status(), Some(TimeToLiveStatus::Enabled | TimeToLiveStatus::Enabling));
    ttl.attribute_name().filter(|_| enabled)
}

/// Whether DynamoDB has made a table or an index. A missing status is that of an old description.
fn status(what: &str, status: Option<&str>) -> Finding {
    match status {
        None | Some("ACTIVE" | "UPDATING") => ok(format!("The {what} is active.")),
        Some(status) => problem(
            format!("The {what}'s status is {status}, so it cannot be used, or lacks sessions."),
            "Wait until it is ACTIVE; if it does not get there, see the DynamoDB console for the reason.",
        ),
    }
}

fn key(table: &TableDescription) -> Finding {
    let keys = table.key_schema();
    if let [hash] = keys
        && hash.attribute_name() == "token_hash"
        && has_string_type(table, "token_hash")
    {
        return ok("The table's only key is token_hash, of type S.");
    }
    let reason = if names(keys, &KeyType::Hash) != ["token_hash"] {
        format!("The table's partition key is {}, not token_hash", names(keys, &KeyType::Hash).join(" and "))
    } else if keys.len() > 1 {
        format!("The table has the sort key {}", names(keys, &KeyType::Range).join(" and "))
    } else {
        "The table's key token_hash is not of type S".to_owned()
    };
    problem(
        format!("{reason}, so the function cannot read a session by the hash of its token."),
        "The key of a table cannot be changed: create a table whose only key is token_hash (S), and move the sessions to it.",
    )
}

fn no_index(table: &TableDescription, name: &str) -> Finding {
    let meaning = if table.local_secondary_indexes().iter().any(|index| index.index_name() == Some(name)) {
        format!("The index {name} is a local index, which cannot list a user's sessions.")
    } else {
        format!("The table has no index {name}, so the function cannot find the other sessions of a user.")
    };
    let fits =
        |index: &&GlobalSecondaryIndexDescription| index_key(table, index).level == Level::Ok && projects_status(index);
    let advice = match table.global_secondary_indexes().iter().find(fits).and_then(|index| index.index_name()) {
        Some(other) => {
            format!(
                "The index {other} would do: deploy with ExistingIndexName={other}, or check it with --index {other}."
            )
        }
        None => "Add an index with the partition key user_id (S) and no sort key that projects status.".to_owned(),
    };
    problem(meaning, advice)
}

fn index_key(table: &TableDescription, index: &GlobalSecondaryIndexDescription) -> Finding {
    let name = index.index_name().unwrap_or_default();
    let keys = index.key_schema();
    let (hashes, ranges) = (names(keys, &KeyType::Hash), names(keys, &KeyType::Range));
    let recreate =
        "The key of an index cannot be changed: add another with the partition key user_id (S) and no sort key.";
    if hashes != ["user_id"] {
        return problem(
            format!(
                "The index {name} has the partition key {}, not user_id, so it cannot be asked for a user's sessions.",
                hashes.join(" and ")
            ),
            recreate,
        );
    }
    if !has_string_type(table, "user_id") {
        return problem(
            format!("The index {name} has a user_id that is not of type S, so each query of the function fails."),
            "Write user_id as a string, and add an index whose user_id is of type S.",
        );
    }
    if !ranges.is_empty() {
        return problem(
            format!(
                "The index {name} has the sort key {}: a session without it is not in the index, so it is never revoked.",
                ranges.join(" and ")
            ),
            recreate,
        );
    }
    ok(format!("The index {name} has the only key user_id, of type S."))
}

fn projects_status(index: &GlobalSecondaryIndexDescription) -> bool {
    index.projection().is_some_and(|projection| match projection.projection_type() {
        Some(ProjectionType::All) => true,
        Some(ProjectionType::Include) => projection.non_key_attributes().iter().any(|name| name == "status"),
        _ => false,
    })
}

fn projection(index: &GlobalSecondaryIndexDescription) -> Finding {
    if !projects_status(index) {
        return problem(
            "The index does not project status, by which the function's query leaves out revoked sessions.",
            "A projection cannot be changed: add another index that projects status only.",
        );
    }
    let projected = index.projection();
    let only_status = projected.is_some_and(|projection| {
        projection.projection_type() == Some(&ProjectionType::Include) && projection.non_key_attributes().len() == 1
    });
    if only_status {
        return ok("The index projects status, and nothing else.");
    }
    let advice = "Add an index that projects status only, or let TTL delete expired sessions early.";
    match entry_size(index) {
        Some(size) if size > LARGE_ENTRY => warning(
            format!(
                "The index projects more than status, {size} bytes for each session; each call reads all entries of the user from the start, so that a user with many sessions may never be finished."
            ),
            advice,
        ),
        Some(size) => {
            ok(format!("The index projects more than status, but its entries are small: {size} bytes on average."))
        }
        None => warning(
            "The index projects more than status; each call reads all entries of the user from the start, so large items make it slow and expensive.",
            advice,
        ),
    }
}

/// Average size of an entry in bytes. DynamoDB brings its two figures up to date about every six hours.
fn entry_size(index: &GlobalSecondaryIndexDescription) -> Option<i64> {
    index.index_size_bytes()?.checked_div(index.item_count().filter(|items| *items > 0)?)
}

/// An item without `user_id` is not in the index. These figures are about all items, where a sample sees few.
fn index_is_complete(table: &TableDescription, index: &GlobalSecondaryIndexDescription) -> Option<Finding> {
    let (items, entries) = (table.item_count()?, index.item_count()?);
    // DynamoDB counts table and index at different moments, so a difference of 1 % proves nothing.
    (items - entries > items / 100).then(|| {
        warning(
            format!(
                "The index has {entries} entries for {items} items: an item that is not in it is never revoked. DynamoDB refreshes both figures about every six hours."
            ),
            "Give every session a user_id, and run this again after six hours.",
        )
    })
}

fn capacity(table: &TableDescription, index: &GlobalSecondaryIndexDescription) -> Finding {
    if table.billing_mode_summary().and_then(|summary| summary.billing_mode()) == Some(&BillingMode::PayPerRequest) {
        let limit = |throughput: Option<&OnDemandThroughput>| {
            throughput.and_then(OnDemandThroughput::max_write_request_units).filter(|writes| *writes > 0)
        };
        let limits = [limit(table.on_demand_throughput()), limit(index.on_demand_throughput())];
        if limits == [None, None] {
            return ok("Capacity is on demand, for table and index, without a limit.");
        }
        let [table, index] = limits.map(|limit| limit.map_or_else(|| "none".to_owned(), |limit| limit.to_string()));
        return warning(
            format!(
                "Capacity is on demand with a limit of writes per second: table {table}, index {index}. A revocation takes one write of each for each session, and a throttled index throttles the table."
            ),
            "Make the limit of the index no lower than that of the table, and leave room for a user with many sessions.",
        );
    }
    let units = |throughput: Option<&ProvisionedThroughputDescription>| {
        throughput.map(|units| (units.read_capacity_units().unwrap_or(0), units.write_capacity_units().unwrap_or(0)))
    };
    let (Some((reads, writes)), Some((index_reads, index_writes))) =
        (units(table.provisioned_throughput()), units(index.provisioned_throughput()))
    else {
        return warning(
            "The description does not show the capacity of table and index, so it is not checked.",
            "If capacity is provisioned, give the index as many write units as the table.",
        );
    };
    let figures = format!(
        "Capacity is provisioned: {reads} reads and {writes} writes per second for the table, {index_reads} and {index_writes} for the index"
    );
    if index_writes < writes {
        warning(
            format!("{figures}. An index with fewer writes than the table throttles the table's writes for everyone."),
            format!("Give the index at least {writes} write units, also as the minimum of its auto scaling."),
        )
    } else if writes < PARTITION_WRITES {
        warning(
            format!(
                "{figures}. A revocation takes one write of each for each session, so a user with many sessions is revoked at this pace, and the application's own writes are throttled meanwhile."
            ),
            "Let both scale automatically, or change to on demand.",
        )
    } else {
        ok(format!("{figures}."))
    }
}

fn warm_throughput(table: &TableDescription, index: &GlobalSecondaryIndexDescription) -> Option<Finding> {
    let of_table = table.warm_throughput()?.write_units_per_second()?;
    let of_index = index.warm_throughput()?.write_units_per_second()?;
    let figures = format!("Warm throughput is {of_table} writes per second for the table and {of_index} for the index");
    // A table with provisioned capacity is as warm as it is large, which `capacity` reports.
    let provisioned =
        table.provisioned_throughput().and_then(ProvisionedThroughputDescription::write_capacity_units).unwrap_or(0)
            > 0;
    Some(if provisioned || of_index.min(of_table) >= PARTITION_WRITES {
        ok(format!("{figures}."))
    } else {
        warning(
            format!("{figures}, so a user with many sessions is throttled until DynamoDB has adapted."),
            "Raise the warm throughput of both to 1,000 writes per second or more.",
        )
    })
}

fn ttl(ttl: Option<&TimeToLiveDescription>) -> Finding {
    match ttl.map(ttl_attribute) {
        None => warning(
            "TTL could not be read, so it is not checked.",
            "Allow dynamodb:DescribeTimeToLive on the table, and run this again.",
        ),
        Some(Some("expires_at")) => {
            ok("TTL deletes sessions some time after expires_at, and with them who revoked them and when.")
        }
        Some(Some(attribute)) => Finding {
            advice: format!("Whenever a session is extended, move {attribute} together with expires_at."),
            ..ok(format!("TTL deletes sessions some time after {attribute}."))
        },
        Some(None) => Finding {
            advice: "Enable TTL on an attribute of your own, some time after expires_at.".to_owned(),
            ..ok("TTL is off: expired and revoked sessions stay, and each call reads those of its user.")
        },
    }
}

fn encryption(table: &TableDescription) -> Finding {
    let encryption = table.sse_description();
    let Some(encryption) = encryption.filter(|encryption| encryption.sse_type() == Some(&SseType::Kms)) else {
        return ok("The table is encrypted with a key of DynamoDB's own, which takes no permission.");
    };
    let key = encryption.kms_master_key_arn().unwrap_or("unknown");
    if encryption.inaccessible_encryption_date_time().is_some() {
        return problem(
            format!("DynamoDB cannot use the table's KMS key {key}, so nothing can read the table."),
            "Enable the key, and let its policy allow DynamoDB to use it.",
        );
    }
    warning(
        format!(
            "The table is encrypted with the KMS key {key}. If you manage this key, the function's role needs kms:Decrypt on it."
        ),
        format!("Deploy with TableKeyArn={key}. If the key is AWS's own, alias aws/dynamodb, do nothing."),
    )
}

fn stream(table: &TableDescription, is_expected: bool) -> Option<Finding> {
    let stream = table.stream_specification().filter(|stream| stream.stream_enabled());
    let view = stream.and_then(|stream| stream.stream_view_type());
    match (stream, is_expected) {
        (None, false) => None,
        (None, true) => Some(problem(
            "The table has no stream, so nobody hears of revocations.",
            "Enable a stream with the view NEW_AND_OLD_IMAGES.",
        )),
        // A revocation is a change of status: a consumer sees it by the images before and after.
        (Some(_), true) if view != Some(&StreamViewType::NewAndOldImages) => Some(problem(
            "The table has a stream without the images before and after a change, so consumers cannot know revocations.",
            "The view of a stream cannot be changed: disable it, and enable one with the view NEW_AND_OLD_IMAGES.",
        )),
        (Some(_), true) => Some(ok("The table has a stream with the images before and after each change.")),
        (Some(_), false) => Some(warning(
            "The table has a stream: each revoked session is one record more for its consumers, at up to 1,000 per second for one user.",
            "Make sure that the consumers keep up, and that none writes an old session back to the table.",
        )),
    }
}

fn replicas(table: &TableDescription) -> Option<Finding> {
    let regions: Vec<_> = table.replicas().iter().filter_map(|replica| replica.region_name()).collect();
    if regions.is_empty() {
        return None;
    }
    let regions = regions.join(", ");
    Some(if table.multi_region_consistency() == Some(&MultiRegionConsistency::Strong) {
        warning(
            format!(
                "The table is a global table with strong consistency ({regions}), on which the function has not been tried."
            ),
            "Try it on a copy, with calls in each region.",
        )
    } else {
        warning(
            format!(
                "The table is a global table ({regions}): a consistent read is consistent within its region only, and the last write of an item wins, so a write in another region can undo a revocation."
            ),
            "Send all writes of one user to one region. See \"Several regions\" in docs/operations.md.",
        )
    })
}

fn names<'a>(keys: &'a [KeySchemaElement], kind: &KeyType) -> Vec<&'a str> {
    keys.iter().filter(|key| key.key_type() == kind).map(KeySchemaElement::attribute_name).collect()
}

fn has_string_type(table: &TableDescription, attribute: &str) -> bool {
    table
        .attribute_definitions()
        .iter()
        .any(|defined| defined.attribute_name() == attribute && defined.attribute_type() == &ScalarAttributeType::S)
}

pub fn ok(meaning: impl Into<String>) -> Finding {
    Finding { level: Level::Ok, meaning: meaning.into(), advice: String::new() }
}

fn warning(meaning: impl Into<String>, advice: impl Into<String>) -> Finding {
    Finding { level: Level::Warning, meaning: meaning.into(), advice: advice.into() }
}

fn problem(meaning: impl Into<String>, advice: impl Into<String>) -> Finding {
    Finding { level: Level::Problem, meaning: meaning.into(), advice: advice.into() }
}

#[cfg(test)]
mod tests {
    use aws_sdk_dynamodb::primitives::DateTime;
    use aws_sdk_dynamodb::types::{
        AttributeDefinition, BillingModeSummary, GlobalSecondaryIndexWarmThroughputDescription,
        LocalSecondaryIndexDescription, Projection, ReplicaDescription, SseDescription, StreamSpecification,
        TableWarmThroughputDescription,
    };

    use super::*;

    type Table = TableDescription;
    type Index = GlobalSecondaryIndexDescription;

    fn keys(names: &[&str]) -> Vec<KeySchemaElement> {
        let kinds = [KeyType::Hash, KeyType::Range];
        let key = |(name, kind): (&&str, KeyType)| {
            KeySchemaElement::builder().attribute_name(*name).key_type(kind).build().expect("a key")
        };
        names.iter().zip(kinds).map(key).collect()
    }

    fn types(types: [(&str, ScalarAttributeType); 2]) -> Vec<AttributeDefinition> {
        let definition = |(name, kind)| {
            AttributeDefinition::builder().attribute_name(name).attribute_type(kind).build().expect("a definition")
        };
        types.into_iter().map(definition).collect()
    }

    fn projecting(kind: ProjectionType, attributes: &[&str]) -> Projection {
        let attributes = (!attributes.is_empty()).then(|| attributes.iter().map(|name| (*name).to_owned()).collect());
        Projection::builder().projection_type(kind).set_non_key_attributes(attributes).build()
    }

    /// A table on demand as the template makes it, with a change.
    fn table(change: impl FnOnce(&mut Table, &mut Index)) -> Table {
        use ScalarAttributeType::S;
        let mut index = Index::builder()
            .index_name("user_id-index")
            .set_key_schema(Some(keys(&["user_id"])))
            .projection(projecting(ProjectionType::Include, &["status"]))
            .index_status(IndexStatus::Active)
            .item_count(1000)
            .index_size_bytes(135_000)
            .build();
        let mut table = Table::builder()
            .table_status(TableStatus::Active)
            .set_key_schema(Some(keys(&["token_hash"])))
            .set_attribute_definitions(Some(types([("token_hash", S), ("user_id", S)])))
            .billing_mode_summary(BillingModeSummary::builder().billing_mode(BillingMode::PayPerRequest).build())
            .item_count(1000)
            .build();
        change(&mut table, &mut index);
        table.global_secondary_indexes.get_or_insert_default().push(index);
        table
    }

    fn provision(table: &mut Table, index: &mut Index, writes: i64, index_writes: i64) {
        let units = |writes| {
            ProvisionedThroughputDescription::builder().read_capacity_units(5).write_capacity_units(writes).build()
        };
        table.billing_mode_summary = None;
        table.provisioned_throughput = Some(units(writes));
        index.provisioned_throughput = Some(units(index_writes));
    }

    fn warm(table: &mut Table, index: &mut Index, writes: i64, index_writes: i64) {
        let of_table = TableWarmThroughputDescription::builder().write_units_per_second(writes);
        let of_index = GlobalSecondaryIndexWarmThroughputDescription::builder().write_units_per_second(index_writes);
        table.warm_throughput = Some(of_table.build());
        index.warm_throughput = Some(of_index.build());
    }

    fn encrypt(table: &mut Table, lost: Option<DateTime>) {
        let key = SseDescription::builder().sse_type(SseType::Kms).kms_master_key_arn("arn:aws:kms:key/1");
        table.sse_description = Some(key.set_inaccessible_encryption_date_time(lost).build());
    }

    fn stream(table: &mut Table, view: StreamViewType) {
        let stream = StreamSpecification::builder().stream_enabled(true).stream_view_type(view);
        table.stream_specification = Some(stream.build().expect("a stream"));
    }

    fn replicate(table: &mut Table, consistency: Option<MultiRegionConsistency>) {
        table.replicas = Some(vec![ReplicaDescription::builder().region_name("eu-west-1").build()]);
        table.multi_region_consistency = consistency;
    }

    fn ttl_on(attribute: &str) -> TimeToLiveDescription {
        let status = TimeToLiveStatus::Enabled;
        TimeToLiveDescription::builder().time_to_live_status(status).attribute_name(attribute).build()
    }

    /// The findings that are not `Ok`, of an empty table with TTL, and how many there are that are.
    fn faults(table: &Table, expects_stream: bool) -> (Vec<Finding>, usize) {
        let (ttl, sample) = (ttl_on("delete_at"), Sample::new(None));
        let observed =
            Observed { table, index: "user_id-index", expects_stream, time_to_live: Some(&ttl), sample: Some(&sample) };
        let (sound, faults): (Vec<_>, Vec<_>) =
            findings(&observed).into_iter().partition(|finding| finding.level == Level::Ok);
        (faults, sound.len())
    }

    #[test]
    fn a_table_on_which_the_function_works_has_no_fault() {
        let all = |index: &mut Index| index.projection = Some(projecting(ProjectionType::All, &[]));
        for (table, expects_stream) in [
            (table(|_, _| {}), false),
            (table(|table, index| provision(table, index, 1000, 1000)), false),
            (table(|table, index| warm(table, index, 4000, 4000)), false),
            (table(|_, index| index.index_status = None), false),
            (table(|_, index| all(index)), false),
            (table(|table, _| stream(table, StreamViewType::NewAndOldImages)), true),
        ] {
            let (faults, sound) = faults(&table, expects_stream);
            assert!(faults.is_empty() && sound >= 8, "{faults:#?}");
        }
    }

    #[test]
    fn each_fault_of_a_table_is_the_only_one_reported() {
        use Level::{Problem, Warning};
        use MultiRegionConsistency::Strong;
        use ScalarAttributeType::{N, S};
        use StreamViewType::{KeysOnly, NewAndOldImages, NewImage};
        type Change = fn(&mut Table, &mut Index);
        // The command's own tests have those of keys and projections. A text that begins with `expected: ` is for a table of which a stream is expected.
        let cases: [(Level, &str, Change); 22] = [
            (Problem, "CREATING", |table, _| table.table_status = Some(TableStatus::Creating)),
            (Problem, "local index", |table, index| {
                let local = LocalSecondaryIndexDescription::builder().index_name("user_id-index");
                table.local_secondary_indexes = Some(vec![local.build()]);
                index.index_name = None;
            }),
            (Problem, "user_id and tenant", |_, index| {
                index.key_schema = Some([keys(&["user_id"]), keys(&["tenant"])].concat());
            }),
            (Problem, "user_id that is not of type S", |table, _| {
                table.attribute_definitions = Some(types([("token_hash", S), ("user_id", N)]));
            }),
            (Warning, "500 bytes", |_, index| {
                index.projection = Some(projecting(ProjectionType::All, &[]));
                index.index_size_bytes = Some(500_000);
            }),
            (Warning, "from the start", |_, index| {
                index.projection = Some(projecting(ProjectionType::Include, &["status", "device"]));
                index.index_size_bytes = None;
            }),
            (Problem, "CREATING", |_, index| index.index_status = Some(IndexStatus::Creating)),
            (Warning, "989 entries for 1000 items", |_, index| index.item_count = Some(989)),
            (Warning, "at least 2000 write units", |table, index| provision(table, index, 2000, 1000)),
            (Warning, "at this pace", |table, index| provision(table, index, 5, 5)),
            (Warning, "does not show", |table, _| table.billing_mode_summary = None),
            (Warning, "table none, index 100", |_, index| {
                index.on_demand_throughput = Some(OnDemandThroughput::builder().max_write_request_units(100).build());
            }),
            (Warning, "4000 writes per second for the table and 10 ", |table, index| warm(table, index, 4000, 10)),
            (Warning, "TableKeyArn=arn:aws:kms:key/1", |table, _| encrypt(table, None)),
            (Problem, "cannot use", |table, _| encrypt(table, Some(DateTime::from_secs(1)))),
            (Warning, "has a stream", |table, _| stream(table, NewAndOldImages)),
            (Problem, "expected: has no stream", |_, _| {}),
            (Problem, "expected: without the images", |table, _| stream(table, KeysOnly)),
            (Problem, "expected: without the images", |table, _| stream(table, NewImage)),
            (Problem, "expected: has no stream", |table, _| {
                let off = StreamSpecification::builder().stream_enabled(false).build();
                table.stream_specification = Some(off.expect("a stream"));
            }),
            (Warning, "within its region only", |table, _| replicate(table, None)),
            (Warning, "not been tried", |table, _| replicate(table, Some(Strong))),
        ];
        for (level, text, change) in cases {
            let expected = text.strip_prefix("expected: ");
            let (faults, _) = faults(&table(change), expected.is_some());
            let [fault] = &faults[..] else { panic!("{text}: {faults:#?}") };
            assert_eq!(fault.level, level, "{text}: {fault:?}");
            let shown = format!("{} {}", fault.meaning, fault.advice);
            assert!(shown.contains(expected.unwrap_or(text)) && !fault.advice.is_empty(), "{text}: {fault:?}");
        }
    }

    #[test]
    fn ttl_on_any_attribute_or_none_is_no_fault_and_what_could_not_be_read_is() {
        let table = table(|_, _| {});
        let (sample, off) = (Sample::new(None), TimeToLiveDescription::builder().build());
        let (own, expires_at) = (ttl_on("delete_at"), ttl_on("expires_at"));
        for (text, level, time_to_live, sample) in [
            ("move delete_at together with expires_at", Level::Ok, Some(&own), Some(&sample)),
            ("after expires_at, and with them", Level::Ok, Some(&expires_at), Some(&sample)),
            ("TTL is off", Level::Ok, Some(&off), Some(&sample)),
            ("DescribeTimeToLive", Level::Warning, None, Some(&sample)),
            ("dynamodb:Scan", Level::Warning, Some(&own), None),
        ] {
            let index = "user_id-index";
            let found = findings(&Observed { table: &table, index, expects_stream: false, time_to_live, sample });
            let has_text = |finding: &&Finding| format!("{} {}", finding.meaning, finding.advice).contains(text);
            assert_eq!(found.iter().find(has_text).map(|finding| finding.level), Some(level), "{text}: {found:#?}");
            let faults = found.iter().filter(|finding| finding.level != Level::Ok).count();
            assert_eq!(faults, usize::from(level != Level::Ok), "{found:#?}");
        }
    }
}
