// A node's fabric whose caller's clock is not the network's.
#pragma once

#include "transport/fabric.hpp"

namespace troupe::simulation {

class skewed_fabric final : public transport::fabric {
 public:
  using to_true = std::function<transport::time_point(transport::time_point)>;
  skewed_fabric(std::unique_ptr<transport::fabric> inner, to_true convert)
      : inner_(std::move(inner)), convert_(std::move(convert)) {}

  incarnation self() const override { return inner_->self(); }
  result<transport::region> allocate(std::size_t bytes) override { return inner_->allocate(bytes); }
  result<transport::region> register_memory(void* data, std::size_t bytes,
                                            transport::memory_kind kind) override {
    return inner_->register_memory(data, bytes, kind);
  }
  result<std::string> local_address() override { return inner_->local_address(); }
  result<void> connect(incarnation peer, std::string_view address) override {
    return inner_->connect(peer, address);
  }
  void disconnect(incarnation peer) override { inner_->disconnect(peer); }
  result<void> pull(transport::pull_request request) override {
    request.deadline = convert_(request.deadline);
    return inner_->pull(std::move(request));
  }
  void cancel(transport::op_id op) override { inner_->cancel(op); }
  transport::fabric_stats stats() const override { return inner_->stats(); }
  void close() override { inner_->close(); }

 private:
  const std::unique_ptr<transport::fabric> inner_;
  const to_true convert_;
};

}  // namespace troupe::simulation
