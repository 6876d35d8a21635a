export interface ApprovalEvents {
  'approval.changed': { accountId: string; approvalId: string }
}
