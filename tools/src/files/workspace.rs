pub(crate) struct Workspace;
impl Workspace {
    pub(crate) fn open(_: &std::path::Path) -> std::io::Result<Workspace> {
        Ok(Workspace)
    }
}
