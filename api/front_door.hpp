// What answers HTTP while the server starts: the port is taken before the model is read, so that a port in use is noticed
// at once, and who asks hears that the server is starting (503) instead of finding nobody.
//
// Thread-safe. Afterwards every request goes to the application, for one atomic load more.
#pragma once

#include <memory>

#include "api/cors.hpp"
#include "api/frontend_metrics.hpp"
#include "api/http_types.hpp"

namespace troupe::api {

class front_door : public http_handler {
 public:
  explicit front_door(std::shared_ptr<frontend_metrics> metrics, cors allowed_origins = {})
      : metrics_(std::move(metrics)), allowed_origins_(std::move(allowed_origins)) {}

  void open(std::shared_ptr<http_handler> to) { std::atomic_store(&to_, std::move(to)); }

  void handle(http_request request, std::shared_ptr<exchange> to) override;
  http_response refuse(const api_error& e) override;

 private:
  const std::shared_ptr<frontend_metrics> metrics_;
  const cors allowed_origins_;
  std::shared_ptr<http_handler> to_;  // by atomic functions only; null while starting
};

}  // namespace troupe::api
