//! Reads what a file says of a model of one family.

use crate::Error;
use crate::weights::Source;

/// More layers than any model has; a number beyond it is damage, not a model.
const LAYERS_MAX: usize = 1024;

/// Reads a family's own keys, which start with its name.
pub(super) struct Reader<'a> {
    pub(super) file: &'a Source,
    pub(super) architecture: &'a str,
}

impl Reader<'_> {
    pub(super) fn key(&self, key: &str) -> String {
        format!("{}.{key}", self.architecture)
    }

    /// Whether there is a tensor of this name.
    pub(super) fn has(&self, tensor: &str) -> bool {
        self.file.has(tensor)
    }

    pub(super) fn bad(&self, why: impl ToString) -> Error {
        self.file.bad(why)
    }

    pub(super) fn number(&self, key: &str) -> Result<usize, Error> {
        let key = self.key(key);
        let number = self.file.number(&key)?;
        self.size(&key, number.ok_or_else(|| self.bad(format!("`{key}` is missing")))?)
    }

    pub(super) fn number_or(&self, key: &str, otherwise: usize) -> Result<usize, Error> {
        let key = self.key(key);
        self.file.number(&key)?.map_or(Ok(otherwise), |number| self.size(&key, number))
    }

    /// A number for every layer: a list, or one number for all.
    pub(super) fn per_layer(&self, key: &str, layers: usize) -> Result<Option<Vec<usize>>, Error> {
        let name = self.key(key);
        let Some(list) = self.file.numbers(&name)? else {
            return match self.file.number(&name)? {
                None => Ok(None),
                Some(number) => Ok(Some(vec![self.size(&name, number)?; layers])),
            };
        };
        if list.len() < layers {
            return Err(self.bad(format!("`{name}` has {} numbers for {layers} layers", list.len())));
        }
        list.into_iter().map(|number| self.size(&name, number)).collect::<Result<_, _>>().map(Some)
    }

    /// A list of layers.
    pub(super) fn list(&self, key: &str) -> Result<Option<Vec<usize>>, Error> {
        let name = self.key(key);
        let Some(list) = self.file.numbers(&name)? else { return Ok(None) };
        list.into_iter().map(|number| self.size(&name, number)).collect::<Result<_, _>>().map(Some)
    }

    /// Whether the file has a list under this key, and not one number.
    pub(super) fn is_list(&self, key: &str) -> bool {
        matches!(self.file.numbers(&self.key(key)), Ok(Some(_)))
    }

    fn size(&self, key: &str, number: u64) -> Result<usize, Error> {
        // Beyond 32 bits, products of such numbers would wrap.
        u32::try_from(number)
            .map(|n| n as usize)
            .map_err(|_| self.bad(format!("`{key}` is {number}, which is no size")))
    }

    pub(super) fn real(&self, key: &str) -> Result<f32, Error> {
        let key = self.key(key);
        self.file.real(&key)?.ok_or_else(|| self.bad(format!("`{key}` is missing")))
    }

    pub(super) fn real_or(&self, key: &str, otherwise: f32) -> Result<f32, Error> {
        Ok(self.file.real(&self.key(key))?.unwrap_or(otherwise))
    }

    /// A real number for every layer: a list, or one number for all.
    pub(super) fn real_per_layer(&self, key: &str, layers: usize) -> Result<Option<Vec<f32>>, Error> {
        let name = self.key(key);
        match self.file.reals(&name)? {
            None => Ok(self.file.real(&name)?.map(|real| vec![real; layers])),
            Some(list) if list.len() < layers => {
                Err(self.bad(format!("`{name}` has {} numbers for {layers} layers", list.len())))
            }
            Some(list) => Ok(Some(list)),
        }
    }

    pub(super) fn truth_or(&self, key: &str, otherwise: bool) -> Result<bool, Error> {
        Ok(self.file.truth(&self.key(key))?.unwrap_or(otherwise))
    }

    pub(super) fn text(&self, key: &str) -> Option<&str> {
        self.file.text(&self.key(key))
    }

    /// How many layers there are, without those that only guess ahead (`nextn_predict_layers`), which stand
    /// behind the others.
    pub(super) fn layers(&self) -> Result<usize, Error> {
        let layers = self.number("block_count")?;
        let ahead = self.number_or("nextn_predict_layers", 0)?;
        if layers > LAYERS_MAX || ahead >= layers.max(1) {
            return Err(self.bad(format!("it announces {layers} layers, {ahead} of them to guess ahead")));
        }
        Ok(layers - ahead)
    }
}
