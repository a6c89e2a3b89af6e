#include "model/model.hpp"

#include "model/architecture.hpp"
#include "model/digest.hpp"
#include "model/source.hpp"
#include "model/synthetic.hpp"

namespace troupe::model {

result<std::shared_ptr<const loaded_model>> open_model(const std::filesystem::path& path) {
  if (is_synthetic(path)) return open_synthetic(path.native().substr(path.native().find(':') + 1));
  TROUPE_TRY(auto source, read_source(path));
  TROUPE_TRY(const architecture* arch, architecture_of(source));
  auto loaded = std::make_shared<loaded_model>();
  TROUPE_TRY(loaded->config, read_config(*arch, source));
  TROUPE_TRY(loaded->weights, bind_weights(*arch, loaded->config, source));
  loaded->digest = digest(source);
  // A file that was written to meanwhile has no identity.
  for (const auto& file : source.files) TROUPE_CHECK(file->verify());
  loaded->meta = source.meta;
  loaded->mapping = std::make_shared<decltype(source.files)>(std::move(source.files));
  loaded->file_bytes = source.file_bytes;
  return loaded;
}

}  // namespace troupe::model
