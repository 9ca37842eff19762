//! A configuration as YAML.

use super::{
    ClusterConfig, ConfigError,
    schema::{self, Visit},
    value::{Value, Written},
};

/// The whole configuration, keys in the order of the schema.
pub(super) fn to_yaml(config: &ClusterConfig) -> String {
    let mut writer = Writer::default();
    // Writing cannot fail: neither method below returns an error.
    let _ = schema::root(&mut writer, &mut config.clone());
    writer.out
}

#[derive(Default)]
struct Writer {
    out: String,
    depth: usize,
}

impl Writer {
    fn line(&mut self, extra: usize, text: &str) {
        let indent = 2 * (self.depth + extra);
        self.out.push_str(&format!("{:indent$}{text}\n", ""));
    }
}

impl Visit for Writer {
    fn field<T: Value>(&mut self, key: &'static str, value: &mut T) -> Result<(), ConfigError> {
        match value.write() {
            Written::Absent => {}
            Written::Scalar(text) => self.line(0, &format!("{key}: {text}")),
            Written::List(items) if items.is_empty() => self.line(0, &format!("{key}: []")),
            Written::Map(entries) if entries.is_empty() => self.line(0, &format!("{key}: {{}}")),
            Written::Map(entries) => {
                self.line(0, &format!("{key}:"));
                for (name, text) in entries {
                    self.line(1, &format!("{name}: {text}"));
                }
            }
            Written::List(items) => {
                self.line(0, &format!("{key}:"));
                for item in items {
                    self.line(1, &format!("- {item}"));
                }
            }
        }
        Ok(())
    }

    fn section(
        &mut self,
        key: &'static str,
        fields: impl FnOnce(&mut Self) -> Result<(), ConfigError>,
    ) -> Result<(), ConfigError> {
        self.line(0, &format!("{key}:"));
        self.depth += 1;
        fields(self)?;
        self.depth -= 1;
        Ok(())
    }
}
