//! Whether the function works on a table: rules over the table's description and a sample of its items. No I/O.
//!
//! A finding holds names and settings of the table, and counts of items. It never holds the value of an item.

use std::collections::HashMap;

use aws_sdk_dynamodb::types::{
    AttributeValue, BillingMode, GlobalSecondaryIndexDescription, IndexStatus, KeySchemaElement, KeyType,
    MultiRegionConsistency, OnDemandThroughput, ProjectionType, ProvisionedThroughputDescription, ScalarAttributeType,
    SseDescription, SseType, StreamSpecification, TableDescription, TableStatus, TimeToLiveDescription,
    TimeToLiveStatus,
};

/// What [`Sample::add`] reads of an item.
pub const SAMPLED_ATTRIBUTES: [&str; 6] =
    ["token_hash", "session_id", "user_id", "status", "expires_at", "authenticated_at"];

/// Epoch times above this are in milliseconds: in seconds, it is the year 5138.
const LARGEST_SECONDS: f64 = 1e11;

/// Size of an index entry, in bytes, above which the projection is worth a warning. With `status` alone it is about 135.
const LARGE_ENTRY: i64 = 400;

/// Writes per second that one user's part of an index can take. What is below it slows down a revocation.
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
    /// `None` if it could not be read.
    pub time_to_live: Option<&'a TimeToLiveDescription>,
    /// `None` if no item could be read.
    pub sample: Option<&'a Sample>,
}

/// How many of the sampled items have which defect.
#[derive(Debug, Default)]
pub struct Sample {
    pub items: u64,
    not_a_hash: u64,
    no_user_id: u64,
    no_session_id: u64,
    no_status: u64,
    other_status: u64,
    no_expires_at: u64,
    expires_at_date: u64,
    expires_at_numeric_string: u64,
    expires_at_other: u64,
    expires_at_milliseconds: u64,
    no_authenticated_at: u64,
    authenticated_at_milliseconds: u64,
}

/// Every finding, in the order in which to fix problems: keys, index, settings, items.
pub fn findings(observed: &Observed) -> Vec<Finding> {
    let Observed { table, index: name, time_to_live, sample } = *observed;
    let mut findings = vec![status(table), key(table)];
    match table.global_secondary_indexes().iter().find(|index| index.index_name() == Some(name)) {
        Some(index) => {
            findings.extend([index_key(table, index), index_status(index), projection(index)]);
            findings.extend(index_is_complete(table, index));
            findings.extend(capacity(table, index));
            findings.extend(warm_throughput(table, index));
        }
        None => findings.push(no_index(table, name)),
    }
    findings.push(time_to_live.map_or_else(unknown_time_to_live, ttl));
    findings.push(encryption(table.sse_description()));
    findings.extend(stream(table));
    findings.extend(replicas(table));
    match sample {
        Some(sample) => findings.extend(sample.findings()),
        None => findings.push(warning(
            "No item could be read, so the items are not checked.",
            "Allow dynamodb:Scan on the table, and run this again.",
        )),
    }
    findings
}

fn status(table: &TableDescription) -> Finding {
    match table.table_status() {
        None | Some(TableStatus::Active | TableStatus::Updating) => ok("The table is active."),
        Some(status) => problem(
            format!("The table's status is {}, so it cannot be read or written.", status.as_str()),
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

fn index_status(index: &GlobalSecondaryIndexDescription) -> Finding {
    match index.index_status() {
        None | Some(IndexStatus::Active | IndexStatus::Updating) => ok("The index is active."),
        Some(status) => problem(
            format!("The index's status is {}, so it cannot be queried, or lacks sessions.", status.as_str()),
            "Wait until it is ACTIVE before you deploy.",
        ),
    }
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

/// An item without `user_id` is not in the index. This sees all items, where a sample sees few.
fn index_is_complete(table: &TableDescription, index: &GlobalSecondaryIndexDescription) -> Option<Finding> {
    let (items, entries) = (table.item_count()?, index.item_count()?);
    // The two figures are not of the same moment.
    let tolerance = items / 100;
    (items - entries > tolerance).then(|| {
        warning(
            format!(
                "The index has {entries} entries for {items} items: an item that is not in it is never revoked. DynamoDB refreshes both figures about every six hours."
            ),
            "Give every session a user_id, and run this again after six hours.",
        )
    })
}

fn capacity(table: &TableDescription, index: &GlobalSecondaryIndexDescription) -> Vec<Finding> {
    let on_demand =
        table.billing_mode_summary().and_then(|summary| summary.billing_mode()) == Some(&BillingMode::PayPerRequest);
    if on_demand {
        let limit = |writes: Option<i64>| writes.filter(|writes| *writes > 0);
        let table_limit = limit(table.on_demand_throughput().and_then(OnDemandThroughput::max_write_request_units));
        let index_limit = limit(index.on_demand_throughput().and_then(OnDemandThroughput::max_write_request_units));
        return vec![match (table_limit, index_limit) {
            (None, None) => ok("Capacity is on demand, for table and index, without a limit."),
            (table_limit, index_limit) => {
                let text = |limit: Option<i64>| limit.map_or_else(|| "none".to_owned(), |limit| limit.to_string());
                warning(
                    format!(
                        "Capacity is on demand with a limit of writes per second: table {}, index {}. A revocation takes one write of each for each session, and a throttled index throttles the table.",
                        text(table_limit),
                        text(index_limit)
                    ),
                    "Make the limit of the index no lower than that of the table, and leave room for a user with many sessions.",
                )
            }
        }];
    }
    let units = |throughput: Option<&ProvisionedThroughputDescription>| {
        throughput.map(|units| (units.read_capacity_units().unwrap_or(0), units.write_capacity_units().unwrap_or(0)))
    };
    let (Some((reads, writes)), Some((index_reads, index_writes))) =
        (units(table.provisioned_throughput()), units(index.provisioned_throughput()))
    else {
        return vec![warning(
            "The description does not show the capacity of table and index, so it is not checked.",
            "If capacity is provisioned, give the index as many write units as the table.",
        )];
    };
    let figures = format!(
        "Capacity is provisioned: {reads} reads and {writes} writes per second for the table, {index_reads} and {index_writes} for the index"
    );
    if index_writes < writes {
        return vec![warning(
            format!("{figures}. An index with fewer writes than the table throttles the table's writes for everyone."),
            format!("Give the index at least {writes} write units, also as the minimum of its auto scaling."),
        )];
    }
    if index_writes.min(writes) < PARTITION_WRITES {
        return vec![warning(
            format!(
                "{figures}. A revocation takes one write of each for each session, so a user with many sessions is revoked at this pace, and the application's own writes are throttled meanwhile."
            ),
            "Let both scale automatically, or change to on demand.",
        )];
    }
    vec![ok(format!("{figures}."))]
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

fn ttl(ttl: &TimeToLiveDescription) -> Finding {
    let enabled = matches!(ttl.time_to_live_status(), Some(TimeToLiveStatus::Enabled | TimeToLiveStatus::Enabling));
    match ttl.attribute_name() {
        Some("expires_at") if enabled => ok("TTL deletes sessions some time after expires_at."),
        Some(attribute) if enabled => warning(
            format!("TTL deletes by {attribute}, not by expires_at; deleted sessions are no longer counted or shown."),
            format!("Make sure that {attribute} is never before expires_at, or change TTL to expires_at."),
        ),
        _ => Finding {
            advice: "Enable TTL on expires_at once nobody needs old sessions for an audit.".to_owned(),
            ..ok("TTL is off: expired and revoked sessions stay, and each call reads those of its user.")
        },
    }
}

fn unknown_time_to_live() -> Finding {
    warning(
        "TTL could not be read, so it is not checked.",
        "Allow dynamodb:DescribeTimeToLive on the table, and run this again.",
    )
}

fn encryption(encryption: Option<&SseDescription>) -> Finding {
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

fn stream(table: &TableDescription) -> Option<Finding> {
    let enabled = table.stream_specification().is_some_and(StreamSpecification::stream_enabled);
    enabled.then(|| {
        warning(
            "The table has a stream: each revoked session is one record more for its consumers, at up to 1,000 per second for one user.",
            "Make sure that the consumers keep up, and that none writes an old session back to the table.",
        )
    })
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

impl Sample {
    /// Counts an item's defects. The item needs no attribute but [`SAMPLED_ATTRIBUTES`].
    pub fn add(&mut self, item: &HashMap<String, AttributeValue>) {
        let text = |name| match item.get(name) {
            Some(AttributeValue::S(value)) if !value.is_empty() => Some(value.as_str()),
            _ => None,
        };
        self.items += 1;
        // Where the key has another name or type, that is the finding.
        if let Some(key) = text("token_hash") {
            self.not_a_hash += u64::from(!is_hash(key));
        }
        self.no_user_id += u64::from(text("user_id").is_none());
        self.no_session_id += u64::from(text("session_id").is_none());
        match text("status") {
            Some("active" | "revoked") => {}
            Some(_) => self.other_status += 1,
            None => self.no_status += 1,
        }
        match item.get("expires_at") {
            None | Some(AttributeValue::Null(_)) => self.no_expires_at += 1,
            Some(AttributeValue::N(value)) => self.expires_at_milliseconds += u64::from(is_milliseconds(value)),
            Some(AttributeValue::S(value)) if value.trim().parse::<f64>().is_ok() => {
                self.expires_at_numeric_string += 1;
            }
            Some(AttributeValue::S(_)) => self.expires_at_date += 1,
            Some(_) => self.expires_at_other += 1,
        }
        match item.get("authenticated_at") {
            Some(AttributeValue::N(value)) => self.authenticated_at_milliseconds += u64::from(is_milliseconds(value)),
            _ => self.no_authenticated_at += 1,
        }
    }

    fn findings(&self) -> Vec<Finding> {
        if self.items == 0 {
            return vec![Finding {
                advice: "Run this again once the application has written sessions.".to_owned(),
                ..ok("The table is empty, so there are no items to check.")
            }];
        }
        let seconds = "Write it as a number of seconds since 1970, and convert what is stored.";
        let rules = [
            (
                self.not_a_hash,
                Level::Problem,
                "have a token_hash that is not 64 lower-case hexadecimal digits: the function never finds them, and raw tokens may be stored, with which a reader of the table can sign in.",
                "Store the lower-case hexadecimal SHA-256 of the token. If raw tokens were stored, sign everyone out.",
            ),
            (
                self.no_user_id,
                Level::Problem,
                "have no user_id of type S: they are not in the index and are never revoked.",
                "Give each of them the id of its user, or delete them.",
            ),
            (
                self.no_session_id,
                Level::Problem,
                "have no session_id of type S: a call with such a session is answered 500.",
                "Give each of them an id that may be shown and logged, never the token.",
            ),
            (
                self.no_status,
                Level::Problem,
                "have no status of type S: the function answers 401 to their users, and an application that does not check status does not notice a revocation.",
                "Write active at sign-in and to what is stored, and let the application admit active sessions only.",
            ),
            (
                self.other_status,
                Level::Warning,
                "have a status other than active and revoked: the function answers 401 to their users, and revokes these sessions with the others.",
                "Write active, in lower case, for sessions that may sign out the others.",
            ),
            (
                self.no_expires_at,
                Level::Problem,
                "have no expires_at: the function answers 401 to their users.",
                "Write the time of expiry, in seconds since 1970, as a number.",
            ),
            (
                self.expires_at_date,
                Level::Problem,
                "have an expires_at that is text, such as an ISO date: the function answers 401 to their users, and TTL never deletes them.",
                seconds,
            ),
            (
                self.expires_at_numeric_string,
                Level::Problem,
                "have an expires_at that is a number written as a string: the function answers 401 to their users, and TTL never deletes them.",
                seconds,
            ),
            (
                self.expires_at_other,
                Level::Problem,
                "have an expires_at that is neither a number nor a string: the function answers 401 to their users.",
                seconds,
            ),
            (
                self.expires_at_milliseconds,
                Level::Problem,
                "have an expires_at in milliseconds: read as seconds, they do not expire for thousands of years, and TTL never deletes them.",
                seconds,
            ),
            (
                self.no_authenticated_at,
                Level::Warning,
                "have no authenticated_at that is a number: with MaxAuthenticationAge, their users must sign in again.",
                "Write it at each sign-in, or do not use MaxAuthenticationAge.",
            ),
            (
                self.authenticated_at_milliseconds,
                Level::Warning,
                "have an authenticated_at in milliseconds: with MaxAuthenticationAge, their users must sign in again.",
                seconds,
            ),
        ];
        let found: Vec<_> = rules
            .into_iter()
            .filter(|(count, ..)| *count > 0)
            .map(|(count, level, meaning, advice)| Finding {
                level,
                meaning: format!("{count} of {} sampled items {meaning}", self.items),
                advice: advice.to_owned(),
            })
            .collect();
        if found.is_empty() {
            vec![ok(format!("All {} sampled items are as they should be.", self.items))]
        } else {
            found
        }
    }
}

fn is_hash(key: &str) -> bool {
    key.len() == 64 && key.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

fn is_milliseconds(value: &str) -> bool {
    value.parse().is_ok_and(|moment: f64| moment > LARGEST_SECONDS)
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

fn ok(meaning: impl Into<String>) -> Finding {
    Finding { level: Level::Ok, meaning: meaning.into(), advice: String::new() }
}

fn warning(meaning: impl Into<String>, advice: impl Into<String>) -> Finding {
    Finding { level: Level::Warning, meaning: meaning.into(), advice: advice.into() }
}

fn problem(meaning: impl Into<String>, advice: impl Into<String>) -> Finding {
    Finding { level: Level::Problem, meaning: meaning.into(), advice: advice.into() }
}

#[cfg(test)]
#[allow(clippy::unnecessary_wraps, reason = "the fields of a description are options")]
#[allow(clippy::too_many_lines, reason = "a test of each rule is a table with a line for each")]
mod tests {
    use aws_sdk_dynamodb::primitives::DateTime;
    use aws_sdk_dynamodb::types::{
        AttributeDefinition, BillingModeSummary, GlobalSecondaryIndexWarmThroughputDescription,
        LocalSecondaryIndexDescription, Projection, ReplicaDescription, TableWarmThroughputDescription,
    };

    use super::*;

    /// The first level is the highest that the finding may have; the text is in its meaning or its advice.
    type Case<'a> = (&'a str, Level, &'a str, TableDescription);

    fn keys(names: &[(&str, KeyType)]) -> Option<Vec<KeySchemaElement>> {
        let element = |(name, kind): &(&str, KeyType)| {
            KeySchemaElement::builder().attribute_name(*name).key_type(kind.clone()).build().expect("a key")
        };
        Some(names.iter().map(element).collect())
    }

    fn types(types: &[(&str, ScalarAttributeType)]) -> Option<Vec<AttributeDefinition>> {
        let definition = |(name, kind): &(&str, ScalarAttributeType)| {
            AttributeDefinition::builder()
                .attribute_name(*name)
                .attribute_type(kind.clone())
                .build()
                .expect("a definition")
        };
        Some(types.iter().map(definition).collect())
    }

    fn projecting(kind: ProjectionType, attributes: &[&str]) -> Projection {
        let attributes = (!attributes.is_empty()).then(|| attributes.iter().map(|name| (*name).to_owned()).collect());
        Projection::builder().projection_type(kind).set_non_key_attributes(attributes).build()
    }

    fn index() -> GlobalSecondaryIndexDescription {
        GlobalSecondaryIndexDescription::builder()
            .index_name("user_id-index")
            .set_key_schema(keys(&[("user_id", KeyType::Hash)]))
            .projection(projecting(ProjectionType::Include, &["status"]))
            .index_status(IndexStatus::Active)
            .item_count(1000)
            .index_size_bytes(135_000)
            .build()
    }

    /// A table on demand as the template makes it.
    fn table() -> TableDescription {
        TableDescription::builder()
            .table_status(TableStatus::Active)
            .set_key_schema(keys(&[("token_hash", KeyType::Hash)]))
            .set_attribute_definitions(types(&[
                ("token_hash", ScalarAttributeType::S),
                ("user_id", ScalarAttributeType::S),
            ]))
            .billing_mode_summary(BillingModeSummary::builder().billing_mode(BillingMode::PayPerRequest).build())
            .item_count(1000)
            .global_secondary_indexes(index())
            .build()
    }

    fn with(change: impl FnOnce(&mut TableDescription)) -> TableDescription {
        let mut table = table();
        change(&mut table);
        table
    }

    fn with_index(change: impl FnOnce(&mut GlobalSecondaryIndexDescription)) -> TableDescription {
        let mut index = index();
        change(&mut index);
        with(|table| table.global_secondary_indexes = Some(vec![index]))
    }

    fn units(writes: i64) -> Option<ProvisionedThroughputDescription> {
        Some(ProvisionedThroughputDescription::builder().read_capacity_units(5).write_capacity_units(writes).build())
    }

    fn provisioned(table_writes: i64, index_writes: i64) -> TableDescription {
        let mut table = with_index(|index| index.provisioned_throughput = units(index_writes));
        table.billing_mode_summary = None;
        table.provisioned_throughput = units(table_writes);
        table
    }

    fn warm(table_writes: i64, index_writes: i64) -> TableDescription {
        let mut table = with_index(|index| {
            let warm = GlobalSecondaryIndexWarmThroughputDescription::builder();
            index.warm_throughput = Some(warm.write_units_per_second(index_writes).build());
        });
        let warm = TableWarmThroughputDescription::builder();
        table.warm_throughput = Some(warm.write_units_per_second(table_writes).build());
        table
    }

    fn encrypted(lost: bool) -> TableDescription {
        let key = SseDescription::builder().sse_type(SseType::Kms).kms_master_key_arn("arn:aws:kms:key/1");
        let since = lost.then(|| DateTime::from_secs(1));
        with(|table| table.sse_description = Some(key.set_inaccessible_encryption_date_time(since).build()))
    }

    fn in_two_regions(consistency: Option<MultiRegionConsistency>) -> TableDescription {
        with(|table| {
            table.replicas = Some(vec![ReplicaDescription::builder().region_name("eu-west-1").build()]);
            table.multi_region_consistency = consistency;
        })
    }

    fn of(
        table: &TableDescription,
        time_to_live: Option<&TimeToLiveDescription>,
        sample: Option<&Sample>,
    ) -> Vec<Finding> {
        findings(&Observed { table, index: "user_id-index", time_to_live, sample })
    }

    fn ttl_on(attribute: &str) -> TimeToLiveDescription {
        let status = TimeToLiveStatus::Enabled;
        TimeToLiveDescription::builder().time_to_live_status(status).attribute_name(attribute).build()
    }

    fn item(attributes: &[(&str, AttributeValue)]) -> HashMap<String, AttributeValue> {
        let text = |value: &str| AttributeValue::S(value.to_owned());
        let good = [
            ("token_hash", text(&"0a".repeat(32))),
            ("session_id", text("id")),
            ("user_id", text("user")),
            ("status", text("active")),
            ("expires_at", AttributeValue::N("1790000000".to_owned())),
            ("authenticated_at", AttributeValue::N("1.79e9".to_owned())),
        ];
        good.iter().chain(attributes).map(|(name, value)| ((*name).to_owned(), value.clone())).collect()
    }

    /// What the findings are that are not `Ok`.
    fn faults(findings: &[Finding]) -> Vec<&Finding> {
        findings.iter().filter(|finding| finding.level != Level::Ok).collect()
    }

    #[test]
    fn a_table_as_the_template_makes_it_has_no_fault() {
        let mut sample = Sample::default();
        sample.add(&item(&[]));
        sample.add(&item(&[("status", AttributeValue::S("revoked".to_owned()))]));
        for time_to_live in [ttl_on("expires_at"), TimeToLiveDescription::builder().build()] {
            let findings = of(&table(), Some(&time_to_live), Some(&sample));
            assert!(findings.len() >= 8 && faults(&findings).is_empty(), "{findings:#?}");
        }
        for table in [provisioned(1000, 1000), warm(4000, 4000), with_index(|index| index.index_status = None)] {
            let findings = of(&table, Some(&ttl_on("expires_at")), Some(&sample));
            assert!(faults(&findings).is_empty(), "{findings:#?}");
        }
    }

    #[test]
    fn each_fault_of_a_table_is_the_only_one_reported() {
        use Level::{Problem, Warning};
        use ScalarAttributeType::{B, N, S};
        let second = |name: &str| {
            let mut other = index();
            other.index_name = Some(name.to_owned());
            other
        };
        let cases: Vec<Case> = vec![
            ("status", Problem, "CREATING", with(|table| table.table_status = Some(TableStatus::Creating))),
            ("key", Problem, "is id, not", with(|table| table.key_schema = keys(&[("id", KeyType::Hash)]))),
            (
                "sort key",
                Problem,
                "sort key made",
                with(|table| {
                    table.key_schema = keys(&[("token_hash", KeyType::Hash), ("made", KeyType::Range)]);
                }),
            ),
            (
                "binary key",
                Problem,
                "not of type S",
                with(|table| {
                    table.attribute_definitions = types(&[("token_hash", B), ("user_id", S)]);
                }),
            ),
            ("no index", Problem, "Add an index", with(|table| table.global_secondary_indexes = None)),
            (
                "other index",
                Problem,
                "ExistingIndexName=by_user",
                with(|table| {
                    table.global_secondary_indexes = Some(vec![second("by_user")]);
                }),
            ),
            (
                "local index",
                Problem,
                "local index",
                with(|table| {
                    table.global_secondary_indexes = None;
                    let local = LocalSecondaryIndexDescription::builder().index_name("user_id-index");
                    table.local_secondary_indexes = Some(vec![local.build()]);
                }),
            ),
            (
                "index key",
                Problem,
                "partition key owner",
                with_index(|index| {
                    index.key_schema = keys(&[("owner", KeyType::Hash)]);
                }),
            ),
            (
                "two index keys",
                Problem,
                "user_id and tenant",
                with_index(|index| {
                    index.key_schema = keys(&[("user_id", KeyType::Hash), ("tenant", KeyType::Hash)]);
                }),
            ),
            (
                "index sort key",
                Problem,
                "sort key created_at",
                with_index(|index| {
                    index.key_schema = keys(&[("user_id", KeyType::Hash), ("created_at", KeyType::Range)]);
                }),
            ),
            (
                "number",
                Problem,
                "not of type S",
                with(|table| {
                    table.attribute_definitions = types(&[("token_hash", S), ("user_id", N)]);
                }),
            ),
            (
                "keys only",
                Problem,
                "does not project status",
                with_index(|index| {
                    index.projection = Some(projecting(ProjectionType::KeysOnly, &[]));
                }),
            ),
            (
                "wrong projection",
                Problem,
                "does not project status",
                with_index(|index| {
                    index.projection = Some(projecting(ProjectionType::Include, &["device"]));
                }),
            ),
            (
                "large projection",
                Warning,
                "500 bytes",
                with_index(|index| {
                    index.projection = Some(projecting(ProjectionType::All, &[]));
                    index.index_size_bytes = Some(500_000);
                }),
            ),
            (
                "unknown size",
                Warning,
                "from the start",
                with_index(|index| {
                    index.projection = Some(projecting(ProjectionType::Include, &["status", "device"]));
                    index.index_size_bytes = None;
                }),
            ),
            ("backfilling", Problem, "CREATING", with_index(|index| index.index_status = Some(IndexStatus::Creating))),
            (
                "incomplete index",
                Warning,
                "989 entries for 1000 items",
                with_index(|index| {
                    (index.item_count, index.index_size_bytes) = (Some(989), Some(100_000));
                }),
            ),
            ("index too small", Warning, "at least 2000 write units", provisioned(2000, 1000)),
            ("small capacity", Warning, "at this pace", provisioned(5, 5)),
            ("unknown capacity", Warning, "does not show", with(|table| table.billing_mode_summary = None)),
            (
                "limit",
                Warning,
                "table none, index 100",
                with_index(|index| {
                    index.on_demand_throughput =
                        Some(OnDemandThroughput::builder().max_write_request_units(100).build());
                }),
            ),
            ("cold", Warning, "4000 writes per second for the table and 10 ", warm(4000, 10)),
            ("key of one's own", Warning, "TableKeyArn=arn:aws:kms:key/1", encrypted(false)),
            ("lost key", Problem, "cannot use", encrypted(true)),
            (
                "stream",
                Warning,
                "stream",
                with(|table| {
                    let stream = StreamSpecification::builder().stream_enabled(true).build().expect("a stream");
                    table.stream_specification = Some(stream);
                }),
            ),
            ("global table", Warning, "within its region only", in_two_regions(None)),
            ("strong global table", Warning, "not been tried", in_two_regions(Some(MultiRegionConsistency::Strong))),
        ];
        for (name, level, text, table) in cases {
            let findings = of(&table, Some(&ttl_on("expires_at")), Some(&Sample::default()));
            let [fault] = faults(&findings)[..] else { panic!("{name}: {findings:#?}") };
            assert_eq!(fault.level, level, "{name}: {fault:?}");
            assert!(format!("{} {}", fault.meaning, fault.advice).contains(text), "{name}: {fault:?}");
            assert!(!fault.advice.is_empty(), "{name}: {fault:?}");
        }
    }

    #[test]
    fn an_all_projection_of_small_items_is_fine() {
        let table = with_index(|index| index.projection = Some(projecting(ProjectionType::All, &[])));
        let findings = of(&table, Some(&ttl_on("expires_at")), Some(&Sample::default()));
        assert!(faults(&findings).is_empty(), "{findings:#?}");
    }

    #[test]
    fn ttl_by_another_attribute_and_what_could_not_be_read_are_warnings() {
        let empty = Sample::default();
        let expires_at = ttl_on("expires_at");
        for (text, time_to_live, sample) in [
            ("by purge_at", Some(&ttl_on("purge_at")), Some(&empty)),
            ("DescribeTimeToLive", None, Some(&empty)),
            ("dynamodb:Scan", Some(&expires_at), None),
        ] {
            let findings = of(&table(), time_to_live, sample);
            let [fault] = faults(&findings)[..] else { panic!("{text}: {findings:#?}") };
            assert_eq!(fault.level, Level::Warning, "{text}");
            assert!(format!("{} {}", fault.meaning, fault.advice).contains(text), "{fault:?}");
        }
    }

    #[test]
    fn each_defect_of_an_item_is_the_only_one_reported() {
        use Level::{Problem, Warning};
        let s = |value: &str| AttributeValue::S(value.to_owned());
        let n = |value: &str| AttributeValue::N(value.to_owned());
        for (name, value, level, text) in [
            ("token_hash", s("ory_st_raw"), Problem, "raw tokens"),
            ("token_hash", s(&"0A".repeat(32)), Problem, "lower-case"),
            ("user_id", n("7"), Problem, "user_id"),
            ("user_id", s(""), Problem, "user_id"),
            ("session_id", n("7"), Problem, "session_id"),
            ("status", AttributeValue::Bool(true), Problem, "no status"),
            ("status", s("Active"), Warning, "status other"),
            ("expires_at", AttributeValue::Null(true), Problem, "no expires_at"),
            ("expires_at", s("2030-01-01T00:00:00Z"), Problem, "ISO"),
            ("expires_at", s("1790000000"), Problem, "written as a string"),
            ("expires_at", AttributeValue::Bool(true), Problem, "neither"),
            ("expires_at", n("1790000000000"), Problem, "milliseconds"),
            ("authenticated_at", s("2030-01-01"), Warning, "no authenticated_at"),
            ("authenticated_at", n("1790000000000"), Warning, "milliseconds"),
        ] {
            let mut sample = Sample::default();
            sample.add(&item(&[]));
            sample.add(&item(&[(name, value)]));
            let findings = of(&table(), Some(&ttl_on("expires_at")), Some(&sample));
            let [fault] = faults(&findings)[..] else { panic!("{name}, {text}: {findings:#?}") };
            assert_eq!(fault.level, level, "{fault:?}");
            assert!(fault.meaning.starts_with("1 of 2 sampled items") && fault.meaning.contains(text), "{fault:?}");
        }
    }

    #[test]
    fn the_sample_has_every_attribute_that_a_rule_is_about() {
        let mut attributes: Vec<_> = item(&[]).into_keys().collect();
        let mut sampled = SAMPLED_ATTRIBUTES.to_vec();
        attributes.sort();
        sampled.sort_unstable();
        assert_eq!(attributes, sampled);
    }

    #[test]
    fn an_item_without_any_attribute_has_every_defect_of_absence() {
        let mut sample = Sample::default();
        sample.add(&HashMap::new());
        let findings = of(&table(), Some(&ttl_on("expires_at")), Some(&sample));
        let faults: Vec<_> = faults(&findings).iter().map(|fault| fault.meaning.clone()).collect();
        assert_eq!(faults.len(), 5, "{faults:#?}");
        for name in ["user_id", "session_id", "status", "expires_at", "authenticated_at"] {
            assert!(faults.iter().any(|fault| fault.contains(name)), "{name}: {faults:#?}");
        }
    }
}
